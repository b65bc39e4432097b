"""``flip-fl hub token|key|audit``: who may read and change, what FL servers report with, and who did what."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.asking import YesOption, confirm
from flip_fl.commands.hub_home import HERE, DirOption, acting, hub_settings
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from datetime import datetime

    from flip_fl.commands.answers import AuditRow, KeyRow, TokenRow
    from flip_fl.hub import service_keys, tokens

_OverlapOption = Annotated[
    float, typer.Option("--overlap", min=0, max=720, metavar="HOURS", help="How long the old one still counts.")
]
_Holder = Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, or the name that it was made for.")]


def add_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who will use it: it stands in the audit.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="viewer, operator or admin.")] = "viewer",
    project: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A project that it reaches; may be repeated (all).")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, metavar="N", help="Until it ends.")] = 365,
    directory: DirOption = HERE,
) -> Any:
    """Make a login token for a person or a program. It is shown once; the hub keeps only its hash.

    A viewer reads, an operator also makes, edits and deletes models, an admin changes the hub itself.
    """
    from flip_fl.hub import admin, tokens

    with acting(directory) as session:
        projects = None if project is None else [admin.find_project(session, known).id for known in project]
        made = tokens.issue(session, name, role, projects, lifetime=timedelta(days=days))
    return _answer_token(context, made)


def rotate_token(
    context: typer.Context, token: _Holder, overlap: _OverlapOption = 24.0, directory: DirOption = HERE
) -> Any:
    """Replace a token by another one of the same name, role and projects. It is shown once."""
    from flip_fl.hub import tokens

    with acting(directory) as session:
        found = _find(tokens.listed(session), token)
        made = tokens.rotate(session, found[-1].id, overlap=timedelta(hours=overlap))
    return _answer_token(context, made)


def revoke_token(context: typer.Context, token: _Holder, yes: YesOption = False, directory: DirOption = HERE) -> Any:
    """End a token at once, or all of one name, and every browser that is logged in with it."""
    from flip_fl.hub import tokens

    with acting(directory) as session:
        found = _find(tokens.listed(session), token)
        session.rollback()
        command = f"flip-fl hub token revoke {shlex.quote(token)}"
        confirm(token, f"{len(found)} token(s) of {found[0].name!r} will end", command, yes)
        ended = [tokens.revoke(session, info.id) for info in found]
    return _answer_tokens(context, ended)


def list_tokens(
    context: typer.Context,
    ended: Annotated[bool, typer.Option("--ended", help="Those that are over, too.")] = False,
    directory: DirOption = HERE,
) -> Any:
    """List the tokens: whose they are, what they may do, until when. Never the tokens themselves."""
    from flip_fl.hub import tokens

    with acting(directory) as session:
        found = tokens.listed(session, ended=ended)
    return _answer_tokens(context, found)


def rotate_key(context: typer.Context, overlap: _OverlapOption = 24.0, directory: DirOption = HERE) -> Any:
    """Make a new service key for the FL servers; the old ones end after the overlap. It is shown once.

    A hub that is served takes the new one within seconds, without a restart.
    """
    from flip_fl.commands.answers import Keys
    from flip_fl.hub import service_keys

    with acting(directory) as session:
        key, info = service_keys.rotate(
            session, hub_settings(directory).service_key_hash, overlap=timedelta(hours=overlap)
        )
    output = Output.of(context)
    output.answer(Keys([_key_row(info)], key), f"key  {key}   (INTERNAL_SERVICE_KEY of the FL servers; shown only now)")
    output.next_step("flip-fl hub key list")
    return 0


def revoke_key(
    context: typer.Context,
    fingerprint: Annotated[str, typer.Argument(metavar="SHA256", help="The 12 digits that `key list` shows.")],
    yes: YesOption = False,
    directory: DirOption = HERE,
) -> Any:
    """End a service key at once: FL servers that have no other one can no longer report."""
    from flip_fl.hub import service_keys

    known = hub_settings(directory).service_key_hash
    with acting(directory) as session:
        if not any(info.fingerprint == fingerprint.lower() for info in service_keys.listed(session, known)):
            raise FlipError("E1002", kind="service key", name=fingerprint, known="", suggestion="flip-fl hub key list")
        session.rollback()
        command = f"flip-fl hub key revoke {shlex.quote(fingerprint)}"
        confirm(fingerprint, "FL servers with this key alone will be cut off", command, yes)
        info = service_keys.revoke(session, known, fingerprint)
    return _answer_keys(context, [info])


def list_keys(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the service keys by the first digits of their SHA-256, and until when each counts."""
    from flip_fl.hub import service_keys

    known = hub_settings(directory).service_key_hash
    with acting(directory) as session:
        found = service_keys.listed(session, known)
    return _answer_keys(context, found)


def list_audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many, the newest.")] = 50,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this model, slot, token …, by its id or name.")
    ] = None,
    directory: DirOption = HERE,
) -> Any:
    """List who changed what, newest first. Nothing changes or removes these rows."""
    from flip_fl.commands.answers import Audit, AuditRow
    from flip_fl.hub import audit

    with acting(directory) as session:
        rows = [
            AuditRow(row.id, row.at, row.actor, row.actor_kind, row.action, row.subject, row.details)
            for row in audit.entries(session, limit=limit, subject=subject)
        ]
    Output.of(context).answer(Audit(rows), _audit_text(rows))
    return 0


def _find(known: Sequence[tokens.TokenInfo], token: str) -> list[tokens.TokenInfo]:
    """The valid tokens that a person means, the newest last."""
    found = [info for info in known if token in (info.id, info.name)]
    if not found:
        names = ", ".join(dict.fromkeys(info.name for info in known)) or "none"
        raise FlipError(
            "E1002", kind="valid token", name=token, known=f"it knows {names}", suggestion="flip-fl hub token list"
        )
    return found


def _answer_token(context: typer.Context, made: tokens.IssuedToken) -> int:
    from flip_fl.commands.answers import Tokens

    output = Output.of(context)
    row = _token_row(made.info)
    text = f"{_tokens_text([row])}\n\ntoken  {made.secret}   (to log in, or FLIP_HUB_TOKEN; shown only now)"
    output.answer(Tokens([row], made.secret), text)
    return 0


def _answer_tokens(context: typer.Context, infos: Sequence[tokens.TokenInfo]) -> int:
    from flip_fl.commands.answers import Tokens

    rows = [_token_row(info) for info in infos]
    Output.of(context).answer(Tokens(rows), _tokens_text(rows))
    return 0


def _answer_keys(context: typer.Context, infos: Sequence[service_keys.KeyInfo]) -> int:
    from flip_fl.commands.answers import Keys

    rows = [_key_row(info) for info in infos]
    Output.of(context).answer(Keys(rows), _keys_text(rows))
    return 0


def _token_row(info: tokens.TokenInfo) -> TokenRow:
    from flip_fl.commands.answers import TokenRow

    projects = None if info.projects is None else list(info.projects)
    return TokenRow(info.id, info.name, info.role.value, projects, info.created_at, info.ends_at, info.state)


def _key_row(info: service_keys.KeyInfo) -> KeyRow:
    from flip_fl.commands.answers import KeyRow

    return KeyRow(info.fingerprint, info.source, info.created_at, info.ends_at, info.valid)


def _tokens_text(rows: Sequence[TokenRow]) -> str:
    if not rows:
        return "no tokens yet"
    body = [
        [r.name, r.role, "all" if r.projects is None else ", ".join(r.projects) or "none", _end(r), r.id] for r in rows
    ]
    return table(["name", "role", "projects", "until", "id"], body)


def _end(row: TokenRow) -> str:
    return _day(row.ends_at) if row.state == "valid" else row.state


def _keys_text(rows: Sequence[KeyRow]) -> str:
    if not rows:
        return "no service keys"
    body = [[r.sha256, r.source, _when(r.created_at), _when(r.ends_at), "yes" if r.valid else "no"] for r in rows]
    return table(["sha256", "from", "made", "ends", "valid"], body)


def _audit_text(rows: Sequence[AuditRow]) -> str:
    import json

    if not rows:
        return "nothing was changed yet"
    body = [
        [_when(r.at), f"{r.actor} ({r.actor_kind})", r.action, r.subject, json.dumps(r.details, ensure_ascii=False)]
        for r in rows
    ]
    return table(["when", "who", "what", "of", "details"], body)


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")


def _when(at: datetime | None) -> str:
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%SZ")


Commands = dict[str, tuple[Callable[..., Any], tuple[str, ...]]]
GROUPS: dict[str, tuple[str, Commands]] = {
    "token": (
        "Login tokens of people and programs.",
        {
            "add": (
                add_token,
                (
                    "flip-fl hub token add 'Ada Lovelace' --project Default",
                    "flip-fl hub token add 'Grace Hopper' --role admin --days 90 --json",
                ),
            ),
            "list": (list_tokens, ("flip-fl hub token list", "flip-fl hub token list --ended --json")),
            "rotate": (
                rotate_token,
                (
                    "flip-fl hub token rotate 'Ada Lovelace'",
                    "flip-fl hub token rotate 'Ada Lovelace' --overlap 0 --json",
                ),
            ),
            "revoke": (
                revoke_token,
                (
                    "flip-fl hub token revoke 'Ada Lovelace' --yes",
                    "flip-fl hub token revoke 'Grace Hopper' --yes --json",
                ),
            ),
        },
    ),
    "key": (
        "Service keys, which FL servers report with.",
        {
            "list": (list_keys, ("flip-fl hub key list", "flip-fl hub key list --json")),
            "rotate": (rotate_key, ("flip-fl hub key rotate", "flip-fl hub key rotate --overlap 0 --json")),
            "revoke": (
                revoke_key,
                ("flip-fl hub key revoke 3f9c21a07b5e --yes", "flip-fl hub key revoke 3f9c21a07b5e --yes --json"),
            ),
        },
    ),
    "audit": (
        "Who changed what, and when.",
        {"list": (list_audit, ("flip-fl hub audit list", "flip-fl hub audit list --subject Trust_1 --json"))},
    ),
}
