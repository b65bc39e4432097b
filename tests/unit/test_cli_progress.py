"""How a run's progress is shown, with and without a terminal."""

from __future__ import annotations

import io
import time

from flip_fl.commands.progress import LiveDisplay, PlainDisplay, line
from flip_fl.simulate.model import Progress


def _train(number: int, returned: int, *awaited: str, text: str = "") -> Progress:
    return Progress("train", number, 20, returned, 5, awaited, text)


def test_a_pipe_gets_a_line_when_stage_or_round_changes_and_no_other() -> None:
    """Protects logs from a line for every reply, and from silence between rounds."""
    stream = io.StringIO()
    with PlainDisplay(stream) as display:
        display(Progress("start", text="the engine is starting"))
        for returned in range(4):
            display(_train(1, returned, "Trust_4"))
        display(_train(2, 0, "Trust_4", "Trust_5"))
        display(Progress("upload", 2, 20))
    assert stream.getvalue().splitlines() == [
        "start: the engine is starting",
        "train, round 1/20, 0 of 5 in, waiting Trust_4 0 s",
        "train, round 2/20, 0 of 5 in, waiting Trust_4, Trust_5 0 s",
        "upload, round 2/20",
    ]


def test_silence_in_a_pipe_is_broken_with_who_is_awaited_and_for_how_long() -> None:
    """Protects from a run that stands still and looks alive."""
    stream = io.StringIO()
    begun = time.monotonic()
    with PlainDisplay(stream, silence_s=0.05, clock=lambda: (time.monotonic() - begun) * 1000) as display:
        display(_train(4, 0, "Trust_4"))
        display(_train(4, 3, "Trust_4"))
        # the first silence may have been long enough before the second news
        said = len(stream.getvalue().splitlines())
        while stream.getvalue().count("\n") < said + 2:
            time.sleep(0.01)
            assert time.monotonic() - begun < 60
    later = stream.getvalue().splitlines()[said:]
    assert all(text.startswith("train, round 4/20, 3 of 5 in, waiting Trust_4 ") for text in later)
    seconds = [int(text.split()[-2]) for text in later]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 50


def test_no_line_comes_after_the_end_and_none_before_the_first_news() -> None:
    """Protects the answer on the screen from a late line of a thread that nobody stopped."""
    stream = io.StringIO()
    with PlainDisplay(stream, silence_s=0.01):
        time.sleep(0.05)
    time.sleep(0.03)
    assert stream.getvalue() == ""


def test_a_text_from_a_site_is_neither_markup_nor_control_characters() -> None:
    """Protects the run and the terminal from what a site calls itself."""
    shown = line(Progress("train", 1, 2, 0, 1, ("[/bold]\x1b[2J",), "[link=x]y"), 3.0)
    assert shown == "train, round 1/2, 0 of 1 in, waiting [/bold]\\x1b[2J 3 s: [link=x]y"
    stream = io.StringIO()
    with LiveDisplay(stream, color=False, width=200) as display:
        display(Progress("train", 1, 2, 0, 1, ("[/bold]",), "[link=x]y"))
        assert "waiting [/bold] 0 s: [link=x]y" in display.render().plain
    assert "waiting [/bold] 0 s: [link=x]y" in stream.getvalue()


def test_a_terminal_is_redrawn_at_most_four_times_a_second() -> None:
    """Protects slow terminals and recorded sessions from a flood of news."""
    stream = io.StringIO()
    begun = time.monotonic()
    with LiveDisplay(stream, color=False, width=200) as display:
        while time.monotonic() - begun < 1.0:
            display(_train(1, int(time.monotonic() * 1000) % 5))
            time.sleep(0.001)
    seconds = time.monotonic() - begun
    # One drawing at the start and one at the end come on top of four a second.
    assert stream.getvalue().count("train, round 1/20") <= 3 + 4 * seconds
