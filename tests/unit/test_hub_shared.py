"""An answer that several ask for at the same time is made once, and no longer shared than that."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flip_fl.hub.shared import Shared


def test_who_asks_while_an_answer_is_made_gets_that_one_and_who_asks_later_a_new_one() -> None:
    """A hundred readers of a big run cost the hub one story, and nobody is told what was true before his question."""
    calls: list[int] = []
    go_on = threading.Event()

    def make() -> int:
        calls.append(1)
        go_on.wait(10)
        return len(calls)

    async def ask() -> tuple[list[int], int, int]:
        shared: Shared[int] = Shared()
        asked = [asyncio.create_task(shared.get("run", make)) for _ in range(100)]
        other = asyncio.create_task(shared.get("another", lambda: 7))
        assert await other == 7
        go_on.set()
        return await asyncio.gather(*asked), await shared.get("run", make), len(calls)

    assert asyncio.run(ask()) == ([1] * 100, 2, 2)


def test_one_who_goes_away_does_not_take_the_answer_along() -> None:
    """A closed tab must not fail the request of the others that wait for the same."""
    go_on = threading.Event()

    def make() -> str:
        go_on.wait(10)
        return "told"

    async def ask() -> str:
        shared: Shared[str] = Shared()
        first, second = (asyncio.create_task(shared.get("run", make)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        return await second

    assert asyncio.run(ask()) == "told"


def test_what_fails_fails_for_all_who_asked_and_is_tried_anew() -> None:
    """A database that did not answer once is asked again by the next reader."""
    fails = iter([True, False])
    go_on = threading.Event()

    def make() -> str:
        go_on.wait(10)
        if next(fails):
            raise ValueError("away")
        return "told"

    async def ask() -> tuple[list[str | BaseException], str]:
        shared: Shared[str] = Shared()
        asked = [asyncio.create_task(shared.get("run", make)) for _ in range(2)]
        await asyncio.sleep(0.05)
        go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True), await shared.get("run", make)

    failed, told = asyncio.run(ask())
    assert [str(each) for each in failed] == ["away", "away"]
    assert told == "told"
