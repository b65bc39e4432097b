"""Filters of a job that trains a part of a model (AGGREGATE_ONLY_REGEX), under the names that FLIP's FL API writes.

Under our own controller only that part travels anyway, and these find nothing to take away. They do what they say
under NVFLARE's own controllers, which send all of a model. One that disagrees with the app's config.json takes away
what the server waits for: the result is rejected, and the rejection names the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants

_MODELS = [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF]


class _Named(DXOFilter):
    """Keeps the parameters whose name ``include_vars``, a regular expression, finds. Raises ``re.error`` for none."""

    def __init__(self, include_vars: str) -> None:
        super().__init__(supported_data_kinds=_MODELS, data_kinds_to_filter=_MODELS)
        self.include_vars = include_vars
        self._found: Callable[[str], Any] = re.compile(include_vars).search

    def _kept(self, dxo: DXO) -> DXO | None:
        kept = {name: array for name, array in dxo.data.items() if self._found(name)}
        if len(kept) == len(dxo.data):
            return None
        dxo.data = kept
        return dxo


class KeepOnlyVars(_Named):
    """At a site: only these parameters of a result leave it."""

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        return self._kept(dxo)


class TrimBroadcastVars(_Named):
    """At the server: after the first round, which brings all of the model, only these parameters go to the sites."""

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        return self._kept(dxo) if int(shareable.get_header(AppConstants.CURRENT_ROUND) or 0) > 0 else None


class TrimEvalBroadcastVars(_Named):
    """At the server: only these parameters of a model that is to be scored go to the sites, which have the rest."""

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        return self._kept(dxo)


class ReconstructFullModel(DXOFilter):
    """At a site: puts what ``TrimBroadcastVars`` took away back to a model, as the first round has brought it.

    A model with parameters that the first one had not (of another stage) is a first one again.
    """

    def __init__(self) -> None:
        super().__init__(supported_data_kinds=[DataKind.WEIGHTS], data_kinds_to_filter=[DataKind.WEIGHTS])
        self._whole: dict[str, Any] = {}

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        if not set(dxo.data) < set(self._whole):
            self._whole = dict(dxo.data)
            return None
        dxo.data = {name: dxo.data.get(name, array) for name, array in self._whole.items()}
        return dxo


class ReconstructFullModelForEval(ReconstructFullModel):
    """The same for training and scoring: one chain over both tasks, so that both have the first round's model."""
