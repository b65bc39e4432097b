"""Help, start-up and the exit code table of ``flip-fl``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from flip_fl import __version__
from flip_fl.commands.common import EXIT_WORDS
from flip_fl.errors import CATALOGUE, ExitCode
from tests.support.cli import SCRIPT, all_commands, environment, flip_fl, installed

COMMANDS = dict(all_commands())
HEAVY = ("torch", "nvflare", "flwr", "pandas", "numpy", "fastapi", "pydantic", "sqlalchemy", "requests", "rich")


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_one_line_then_examples_then_options_then_exit_codes(path: str, tmp_path: Path) -> None:
    """Protects the order in which people read: what it is, how it is written, what can be set, how it ends."""
    done = flip_fl(*path.split()[1:], "--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert done.stderr == ""
    assert lines[0].endswith((".", ":"))
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ") and line != lines[0]]
    assert headings[0] == "Examples:"
    assert headings[-1] == "Exit codes:"
    examples = lines[lines.index("Examples:") + 1 :]
    examples = examples[: examples.index("")]
    assert 2 <= len(examples) <= 3
    assert all(example.strip().startswith(path if path != "flip-fl" else "flip-fl ") for example in examples)


@pytest.mark.parametrize("path", COMMANDS)
def test_examples_name_commands_and_options_that_exist(path: str) -> None:
    """Protects examples from drifting away from the commands; the slow tests run them."""
    import shlex

    root = COMMANDS["flip-fl"]
    for example in getattr(COMMANDS[path], "examples", ()):
        words = shlex.split(example)[1:]
        command: click.Command = root
        name = "flip-fl"
        while isinstance(command, click.Group):
            name = f"{name} {words[0]}"
            command = command.commands[words.pop(0)]
        with command.make_context(name, words, parent=click.Context(root, info_name="flip-fl")) as context:
            assert context.args == []


def test_the_exit_codes_are_all_explained_once() -> None:
    """Protects the promise that an exit code has one meaning, which the help states."""
    assert set(EXIT_WORDS) == set(ExitCode)
    assert {entry.exit_code for entry in CATALOGUE.values()} <= set(ExitCode)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """Protects the start-up time: neither engines nor torch, pandas, pydantic or the hub are loaded for help."""
    program = (
        "import json, sys\nfrom flip_fl.cli import call\ncode = call(['run', '--help'])\n"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stderr) == [0, []]


def test_help_costs_little_more_than_a_bare_typer_application(tmp_path: Path) -> None:
    """Protects completion and help from an import that creeps in; a ratio, because machines differ."""
    bare = tmp_path / "bare.py"
    bare.write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef run(folder: str) -> None:\n    'Run.'\napp()\n",
        encoding="utf-8",
    )
    # In turns, so that a busy moment hits both, and until it was calm once for each.
    ours, floor = [_took([str(SCRIPT), "--help"])], [_took([sys.executable, str(bare), "--help"])]
    while len(ours) < 5 or (min(ours) > 2.0 * min(floor) and len(ours) < 30):
        ours.append(_took([str(SCRIPT), "--help"]))
        floor.append(_took([sys.executable, str(bare), "--help"]))
    assert min(ours) <= 2.0 * min(floor), f"flip-fl --help {min(ours):.3f} s, bare typer {min(floor):.3f} s"


def _took(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    return time.perf_counter() - begun


def test_no_words_at_all_show_the_help(tmp_path: Path) -> None:
    """Protects the first encounter: `flip-fl` alone answers with what it can do."""
    assert installed(cwd=tmp_path).stdout == installed("--help", cwd=tmp_path).stdout


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    """Protects bug reports from a version that is not the installed one."""
    assert installed("--version", cwd=tmp_path).stdout == f"flip-fl {__version__}\n"


@pytest.mark.parametrize("words", [("--help",), ("explain",), ("explain", "--json")])
def test_a_reader_that_goes_away_is_no_error(words: tuple[str, ...], tmp_path: Path) -> None:
    """Protects `flip-fl … | head`: no traceback of a broken pipe, and no exit code of a failure."""
    child = subprocess.Popen(
        [str(SCRIPT), *words], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(120) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str, tmp_path: Path) -> None:
    """Protects completion in the three shells, which runs this program at every TAB."""
    env = {"_FLIP_FL_COMPLETE": f"complete_{shell}", "COMP_WORDS": "flip-fl do", "COMP_CWORD": "1"}
    env |= {"_TYPER_COMPLETE_ARGS": "flip-fl do", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "doctor" in installed(cwd=tmp_path, env=env).stdout
