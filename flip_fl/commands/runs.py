"""Which run a person means, and what its story is now: from the run's folder, else from the hub that is set."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from flip_fl.commands.suggest import nearest
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from flip_fl.dashboard.story import Story
    from flip_fl.settings import ServerSettings

RUNS = Path("runs")
STORY = "story.json"
# What a run's own hub and store are reached by while the run goes on.
SERVER_SETTINGS = Path("state") / "settings" / "server.env"
MIN_ID_CHARS = 4
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Run:
    """A run that was found: its folder on this machine, or its model at the hub that ``settings`` name."""

    name: str
    folder: Path | None = None
    model_id: UUID | None = None
    settings: ServerSettings | None = None

    def story(self) -> Story | None:
        """What is known of the run now; None while it has none. ``FlipError`` E0401, E0402, E0403, E0413, E0705."""
        if self.folder is not None:
            told = self.folder / STORY
            if told.is_file():
                return _read(told)
            return _live(self.folder)
        assert self.settings is not None
        assert self.model_id is not None
        return _ask(self.settings, self.model_id)


def find(name: str) -> Run:
    """The run that ``name`` means. Raises ``FlipError`` E0705 when there is none."""
    for folder in (Path(name), RUNS / name):
        if _is_run(folder):
            return Run(folder.name, folder=folder)
    known = {folder.name: folder for folder in sorted(RUNS.glob("*")) if _is_run(folder)}
    if len(name) >= MIN_ID_CHARS:
        told = {folder: _model_id(folder) for folder in known.values()}
        for folder, model_id in told.items():
            if model_id.startswith(name.lower()):
                return Run(folder.name, folder=folder)
    with contextlib.suppress(ValueError):
        model_id_ = UUID(name)
        settings = _server_settings()
        if settings is not None:
            return Run(str(model_id_), model_id=model_id_, settings=settings)
    near = nearest(name, known)
    listed = f"runs here: {', '.join(known)}" if known else f"there are no runs in {RUNS.resolve()}"
    raise FlipError(
        "E0705", run=name, looked=listed, suggestion=f"did you mean {' or '.join(near)}?" if near else "give its folder"
    )


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and ((folder / STORY).is_file() or (folder / SERVER_SETTINGS).is_file())


def _read(path: Path) -> Story:
    from pydantic import ValidationError

    from flip_fl.dashboard.story import Story

    try:
        return Story.model_validate_json(path.read_bytes())
    except (ValidationError, OSError):
        raise FlipError(
            "E0705", run=path.parent, looked=f"{path} cannot be read", suggestion="give the folder of a whole run"
        ) from None


def _model_id(folder: Path) -> str:
    if not (folder / STORY).is_file():
        return ""
    return _read(folder / STORY).model.id


def _live(folder: Path) -> Story | None:
    """The story as the run's own hub tells it; None when that hub is not there (any more)."""
    from flip_fl.settings import ServerSettings, load

    settings = load(ServerSettings, folder / SERVER_SETTINGS)
    outboxes = sorted((folder / "state" / "outbox").glob("*.sqlite"))
    for path in outboxes:
        with contextlib.suppress(FlipError, ValueError):
            return _ask(settings, UUID(path.stem))
    return None


def _ask(settings: ServerSettings, model_id: UUID) -> Story:
    from flip_fl.dashboard.story import Story
    from flip_fl.http import HttpConnectionError, HttpStatusError
    from flip_fl.reporting.hub_reader import reading_client, token_refused

    client = reading_client(settings, read_timeout_s=TIMEOUT_S)
    with contextlib.closing(client):
        try:
            answer = client.request("GET", ("model", str(model_id), "story"), route="/model/{id}/story")
            return Story.model_validate_json(answer.content)
        except HttpConnectionError:
            raise FlipError(
                "E0403", url=settings.hub_url, problem="the connection failed", safe="nothing was changed"
            ) from None
        except HttpStatusError as error:
            if error.status_code in (401, 403):
                raise token_refused(settings, error) from None
            raise FlipError(
                "E0705",
                run=model_id,
                looked=f"the hub at {settings.hub_url} answered {error.status_code}",
                suggestion="flip-fl doctor --hub",
            ) from None
        except ValueError:
            raise FlipError(
                "E0402",
                url=settings.hub_url,
                evidence="its answer is no story of a run",
                suggestion="flip-fl doctor --hub",
            ) from None


def _server_settings() -> ServerSettings | None:
    from flip_fl.commands.origins import find_file
    from flip_fl.settings import load_server

    return load_server(find_file(None))
