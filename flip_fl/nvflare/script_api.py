"""NVFLARE's Client API as a script in a process of ours has it: models and numbers go through a channel to the site.

``nvflare.client`` takes its API from the in-process seam (``DataBus``, ``CLIENT_API_KEY``): ``flare.init()`` and all
that follows, the tracking writers and Lightning's callback included, find this one.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.client.config import ConfigKey, ExchangeFormat, TransferType
from nvflare.client.in_process.api import InProcessClientAPI

from flip_fl.app.arrays import Arrays
from flip_fl.app.faults import AppError, BadFrame
from flip_fl.app.frames import Head, read_frame, write_frame

# What comes from the site is a model, however large.
_NO_LIMIT = 1 << 62
MAX_DEPTH = 6
_NUMBERS = frozenset({AnalyticsDataType.SCALAR, AnalyticsDataType.METRIC})
_SEVERAL = frozenset({AnalyticsDataType.SCALARS, AnalyticsDataType.METRICS})

Task = tuple[Head, Arrays]


class Channel:
    """The script's end of the way to its site. When the site is gone, so is the script, with all that it started."""

    def __init__(self, descriptor: int, printed: Callable[[], int]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._printed = printed
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._numbers = itertools.count()
        self._asked: dict[int, queue.Queue[Task]] = {}
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        # A forked copy would speak in between, and keep the channel open when this process has ended.
        os.register_at_fork(after_in_child=self._socket.close)
        threading.Thread(target=self._listen, name="flip-site", daemon=True).start()

    @property
    def own(self) -> bool:
        """Whether this is the process that the site has started, and no copy of it."""
        return os.getpid() == self._owner

    def task(self, timeout: float | None = None) -> Task | None:
        """The next task; None when the job is over. Raises ``queue.Empty`` after ``timeout`` seconds."""
        found = self._tasks.get(timeout=timeout)
        if found is None:
            self._tasks.put(None)  # whoever asks again hears the same
        return found

    def say(self, kind: str, arrays: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Send one message. Raises ``AppError`` in a forked copy of the process, and for what is too large."""
        if not self.own:
            raise AppError("only the process in which the script was started can speak to its site")
        with self._lock:
            try:
                write_frame(self._socket, {"kind": kind, "printed": self._printed(), **facts}, arrays)
            except BadFrame as problem:
                raise AppError(f"it cannot be sent: {problem}") from None

    def ask(self, asked: str, **facts: Any) -> Task:
        """The site's answer to a question about data. Raises as ``say`` does. For several threads."""
        answer: queue.Queue[Task] = queue.Queue()
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = answer
        self.say("ask", ask=number, asked=asked, **facts)
        return answer.get()

    def _listen(self) -> None:
        while (frame := read_frame(self._socket, lambda: _NO_LIMIT)) is not None:
            head, _ = frame
            if head.get("kind") == "answer":
                self._asked.pop(head["ask"]).put(frame)
            else:
                self._tasks.put(frame if head.get("kind") == "task" else None)
        os.killpg(0, signal.SIGKILL)


class ScriptAPI(InProcessClientAPI):
    """``flare.receive()``, ``flare.send()`` and the rest for one script.

    Asking for the next model before the last one is answered is an error: the site would wait for ever.
    """

    def __init__(self, channel: Channel, seed: Callable[[int], None], first: Task) -> None:
        head, _ = first
        super().__init__(task_metadata=_metadata(head))
        self.fl_model: FLModel | None = None
        self._channel = channel
        self._seed = seed
        self._next: Task | None = first
        self._head: Head = head
        self._received = False
        self._over = False
        self._waiting = False

    def receive(self, timeout: float | None = None) -> FLModel | None:
        """The model of the current task, its params as tensors, again and again until it is answered; None at the end.

        None, too, when none came in ``timeout`` seconds.
        """
        self._only_first_rank("receive")
        if self.fl_model is None and not self._take(timeout):
            return None
        self._received = True
        return self.fl_model

    def send(self, model: FLModel, clear_cache: bool = True) -> None:
        """Answer the current task. Raises ``AppError`` for what cannot be sent, ``RuntimeError`` without a task."""
        self._only_first_rank("send")
        if not self._received:
            raise RuntimeError('"receive" needs to be called before sending model!')
        if model.params is None and model.metrics is None:
            raise RuntimeError("the model to send does not have either params or metrics")
        steps = (model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
        arrays = None
        if model.params is not None and self._head["trains"]:
            arrays = as_arrays(model.params)
        self._channel.say(
            "result",
            arrays,
            number=self._head["number"],
            params_type=None if arrays is None else ParamsType(model.params_type or ParamsType.FULL).value,
            metrics=plain(model.metrics or {}, MAX_DEPTH),
            steps=plain(steps, 1),
        )
        received, self.fl_model, self._received = self.fl_model, None, False
        if clear_cache:
            # As NVFLARE does: what was sent and what it came from is dead weight now.
            model.params = model.optimizer_params = None
            if received is not None:
                received.params = received.optimizer_params = None

    def is_running(self) -> bool:
        """Wait for the next model; False when the job is over."""
        self._only_first_rank("is_running")
        if self.fl_model is not None and self._received:
            raise AppError(
                f"the task {self._head['name']} of round {self._head['round'] + 1} was not answered: call "
                "flare.send(flare.FLModel(…)) for each model that flare.receive() gives"
            )
        return self.fl_model is not None or self._take(None)

    def is_train(self) -> bool:
        self._only_first_rank("is_train")
        return bool(self._head["trains"])

    def is_evaluate(self) -> bool:
        self._only_first_rank("is_evaluate")
        return not self._head["trains"]

    def is_submit_model(self) -> bool:
        """Never: the house asks for no model by itself."""
        return False

    def log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs: Any) -> None:
        """Numbers go to the hub under the rules of every metric; of all else only is told that it was not stored."""
        self._only_first_rank("log")
        step = plain(kwargs.get("global_step"), 1)
        items: list[list[Any]]
        if data_type in _NUMBERS:
            items = [[str(key), plain(value, 1), step]]
        elif data_type in _SEVERAL and isinstance(value, Mapping):
            prefix = f"{key}/" if data_type is AnalyticsDataType.SCALARS else ""
            items = [[f"{prefix}{name}", plain(each, 1), step] for name, each in value.items()]
        else:
            items = [[]]
        self._channel.say("log", number=self._head["number"], items=items)

    def clear(self) -> None:
        self.fl_model, self._received = None, False

    def shutdown(self) -> None:
        self._over = True

    def _take(self, timeout: float | None) -> bool:
        """Make the next task the current one; False when there is none."""
        if self._over:
            return False
        found = self._next
        if found is None:
            if not self._waiting:
                self._waiting = True
                self._channel.say("waiting")
            try:
                found = self._channel.task(timeout)
            except queue.Empty:
                return False
        self._next, self._waiting = None, False
        if found is None:
            self._over = True
            return False
        self._head, arrays = found
        self.set_meta(_metadata(self._head))
        self.prepare_client_config({})
        self.fl_model, self._received = _model(self._head, arrays), False
        self._seed(self._head["seed"])
        return True

    def _only_first_rank(self, name: str) -> None:
        if (self.rank or "0") != "0":
            raise RuntimeError(f"only rank 0 can call {name}!")


def _metadata(head: Head) -> dict[str, Any]:
    """What ``flare.get_config()`` shows, and where NVFLARE's own parts look up names."""
    trains = bool(head["trains"])
    return {
        FLMetaKey.JOB_ID: head["job"],
        FLMetaKey.SITE_NAME: head["site"],
        ConfigKey.TASK_NAME: head["name"],
        ConfigKey.TASK_EXCHANGE: {
            ConfigKey.EXCHANGE_FORMAT: ExchangeFormat.PYTORCH.value,
            ConfigKey.SERVER_EXPECTED_FORMAT: ExchangeFormat.NUMPY.value,
            ConfigKey.TRANSFER_TYPE: TransferType.FULL.value,
            ConfigKey.TRAIN_WITH_EVAL: False,
            ConfigKey.TRAIN_TASK_NAME: head["name"] if trains else "train",
            ConfigKey.EVAL_TASK_NAME: "validate" if trains else head["name"],
            ConfigKey.SUBMIT_MODEL_TASK_NAME: "submit_model",
        },
    }


def _model(head: Head, arrays: Arrays) -> FLModel:
    import torch

    meta = {name: value for name, value in head["meta"].items() if value is not None}
    return FLModel(
        params_type=ParamsType.FULL,
        params={name: torch.from_numpy(array) for name, array in arrays.items()},
        current_round=head["round"],
        total_rounds=head["total_rounds"],
        meta={**meta, FLMetaKey.JOB_ID: head["job"], FLMetaKey.SITE_NAME: head["site"]},
    )


def as_arrays(params: Any) -> Arrays:
    """``params`` of a model as arrays. Raises ``AppError`` naming what is none."""
    import torch

    if not isinstance(params, Mapping):
        raise AppError(f"params is a {type(params).__name__}; it must be a dict of tensors or arrays by name")
    arrays: Arrays = {}
    for name, value in params.items():
        try:
            tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else value
            arrays[str(name)] = tensor.numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        except (TypeError, RuntimeError, ValueError):
            raise AppError(f"'{name}' of params cannot be sent: numpy has no such type") from None
    return arrays


def plain(value: Any, depth: int) -> Any:
    """``value`` as JSON has it: numbers, and lists and objects of them; None for what is neither."""
    if isinstance(value, bool | int | float):
        return value
    if callable(detached := getattr(value, "detach", None)):  # a tensor, wherever it lies
        value = detached().cpu()
    if isinstance(value, np.ndarray | np.generic) or callable(getattr(value, "item", None)):
        return plain(value.item(), 1) if value.ndim == 0 else plain(value.tolist(), depth)
    if depth and isinstance(value, Mapping):
        return {str(name): plain(each, depth - 1) for name, each in value.items()}
    if depth and isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(each, depth - 1) for each in value]
    return None
