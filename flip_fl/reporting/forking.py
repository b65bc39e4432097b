"""What must happen around a fork: a child must not use its parent's locks, threads or database handles."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something whose locks or handles must not be carried into a forked child."""

    def before_fork(self) -> None: ...

    def after_fork(self, *, in_child: bool) -> None: ...


def watch_forks(target: ForkAware) -> None:
    """Call ``target`` around every later ``os.fork`` of this process, for as long as it lives."""
    seen = weakref.ref(target)

    def before() -> None:
        if (alive := seen()) is not None:
            alive.before_fork()

    def in_parent() -> None:
        if (alive := seen()) is not None:
            alive.after_fork(in_child=False)

    def in_child() -> None:
        if (alive := seen()) is not None:
            alive.after_fork(in_child=True)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
