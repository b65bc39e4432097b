"""A command line that could not be understood, told as error E0102 with a line that would be."""

from __future__ import annotations

import re
import shlex

import click

from flip_fl.commands.suggest import nearest
from flip_fl.errors import FlipError, printable

_KINDS = {
    "integer": "a whole number",
    "integer range": "a whole number",
    "float": "a number",
    "float range": "a number",
    "boolean": "true or false",
    "uuid": "a UUID",
}


def refusal(error: click.UsageError, argv: list[str]) -> FlipError:
    """The catalogue's error for what click found wrong in ``argv`` (the words after ``flip-fl``)."""
    context = error.ctx
    path = context.command_path if context is not None else "flip-fl"
    help_line = f"{path} --help"
    if isinstance(error, click.NoSuchOption):
        return _unknown_option(error, path, argv)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        name = error.param.human_readable_name if isinstance(error.param, click.Argument) else error.param.opts[0]
        return FlipError("E0102", problem=f"{path} needs {name}", fix=_example(context) or help_line)
    if isinstance(error, click.BadOptionUsage):
        verb = "does not take" if "does not take" in error.message else "needs"
        return FlipError("E0102", problem=f"{error.option_name} {verb} a value", fix=help_line)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return _bad_value(error, error.param, argv, help_line)
    extra = re.search(r"unexpected extra arguments? \((.*)\)", error.message)
    if extra:
        return FlipError("E0102", problem=f"{path} does not take '{extra.group(1)}'", fix=help_line)
    if "Missing command" in error.message:
        return FlipError("E0102", problem=f"{path} needs a command", fix=help_line)
    return FlipError("E0102", problem=f"the options of {path} do not fit together", fix=help_line)


def _unknown_option(error: click.NoSuchOption, path: str, argv: list[str]) -> FlipError:
    context = error.ctx
    known = [name for p in (context.command.get_params(context) if context else []) for name in p.opts]
    found = nearest(error.option_name, [name for name in known if name.startswith("--")])
    problem = f"{path} has no option '{error.option_name}'"
    lines = []
    for near in found:
        words = [re.sub(rf"^{re.escape(error.option_name)}(?==|$)", near, word) for word in argv]
        lines.append(" ".join(["flip-fl", *(shlex.quote(word) for word in words)]))
    return FlipError("E0102", problem=problem, fix="   or   ".join(lines) or f"{path} --help")


def _bad_value(error: click.BadParameter, parameter: click.Parameter, argv: list[str], help_line: str) -> FlipError:
    name = parameter.human_readable_name if isinstance(parameter, click.Argument) else parameter.opts[0]
    value = _given(parameter.opts, argv)
    shown = f"'{printable(value)}'" if value is not None else "not usable"
    kind = parameter.type
    choices: tuple[str, ...] = tuple(str(c) for c in kind.choices) if isinstance(kind, click.Choice) else ()
    expected = f"one of {', '.join(choices)}" if choices else _KINDS.get(kind.name, f"a {kind.name}")
    if isinstance(kind, click.IntRange):
        low, high = kind.min, kind.max
        if low is not None and high is not None:
            expected += f" from {low:g} to {high:g}"
        elif low is not None:
            expected += f" of at least {low:g}"
    near = nearest(value, choices) if value is not None else []
    fix = f"did you mean {' or '.join(near)}?" if near else help_line
    return FlipError("E0102", problem=f"{name} is {shown}; it must be {expected}", fix=fix)


def _given(options: list[str], argv: list[str]) -> str | None:
    for index, word in enumerate(argv):
        if word in options and index + 1 < len(argv):
            return argv[index + 1]
        name, equals, value = word.partition("=")
        if equals and name in options:
            return value
    return None


def _example(context: click.Context | None) -> str | None:
    examples: tuple[str, ...] = getattr(context.command, "examples", ()) if context is not None else ()
    return examples[0] if examples else None
