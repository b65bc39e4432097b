"""``doctor --federation``: do the hub's slots, the kits and the running federation agree?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.commands.answers import Check
from flip_fl.errors import FlipError
from flip_fl.http import HttpClient, HttpConnectionError, HttpStatusError
from flip_fl.reporting.hub_reader import reading_client, token_refused
from flip_fl.settings import ServerSettings

if TYPE_CHECKING:
    from flip_fl.provision.agreement import HubSlot


_SHOWN = 8
_RECENT = timedelta(days=7)
_OPERATOR = "flip-fl hub token add NAME --role operator, and set FLIP_HUB_TOKEN to what it shows"


def federation(settings: ServerSettings, kits: Path) -> tuple[list[Check], list[FlipError]]:
    """Compare the kits made in ``kits`` with the hub of ``settings`` and, where it answers, with the server.

    Also the errors behind failed checks. Raises ``FlipError`` E0606 without a CA in ``kits``, E0607, E0401.
    """
    from flip_fl.provision import authority
    from flip_fl.provision.agreement import Sides, compare

    if not authority.exists(kits):
        raise FlipError(
            "E0606", folder=kits, act="compare", fix=f"give the folder that holds {authority.FOLDER}/ with --kits"
        )
    ledger = authority.read_ledger(kits)
    reader = reading_client(settings)
    try:
        with contextlib.closing(reader), _named(settings):
            slots = [_slot(row) for row in _get(reader, "slots")]
            revoked, notes = _revocations(reader, ledger.federation.net)
    except FlipError as error:
        return [Check("hub", "fail", error.what, error.why or None, error.fix or None)], [error]
    connected, note = _connected(kits)
    found = compare(Sides(ledger, slots, revoked, connected), kits, datetime.now(UTC))
    rows = [Check(each.name, each.state, each.what, each.why or None, each.fix or None) for each in found]
    return [*rows, *notes, *([note] if note else []), *_news(kits)], []


def settings_file(kits: Path) -> Path | None:
    """The FL server's settings that lie in its kit, if it is in ``kits``."""
    from flip_fl.commands.job_engines import controlling_kit, settings_in

    try:
        return settings_in(controlling_kit(kits))
    except FlipError:
        return None


def _slot(row: Any) -> HubSlot:
    from flip_fl.provision.agreement import HubSlot

    return HubSlot(str(row["slot"]), row["trust"], bool(row["retired"]))


def _get(reader: HttpClient, *path: str) -> list[Any]:
    found = reader.request("GET", path, route="/" + "/".join(path)).json()
    if not isinstance(found, list):
        raise ValueError
    return found


def _revocations(reader: HttpClient, net: str) -> tuple[list[str], list[Check]]:
    try:
        rows = reader.request("GET", ("nets", net, "revocations"), route="/nets/{net}/revocations").json()
    except HttpStatusError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise
        why = "its retired slots alone say what it wants refused"
        return [], [
            Check("net", "warn", f"the hub has no net called '{net}'", why, "give it the name that federation.yaml has")
        ]
    return [str(row["slot"]) for row in rows], []


def _connected(kits: Path) -> tuple[list[str] | None, Check | None]:
    """Who is connected; None and a warning where the server cannot be asked."""
    from flip_fl.commands.job_engines import controlling_kit, engine_of

    try:
        engine = engine_of(controlling_kit(kits))
    except FlipError as error:
        return None, Check("connected", "warn", f"not asked: {error.what}", None, error.fix or None)
    try:
        return engine.sites(), None
    except FlipError as error:
        return None, Check("connected", "warn", f"not known: {error.what}", None, error.fix or None)
    finally:
        engine.close()


def _news(kits: Path) -> Iterator[Check]:
    """What the server has noted of its sites, where its kit is on this machine."""
    from flip_fl.commands.job_engines import controlling_kit
    from flip_fl.provision.clock import difference
    from flip_fl.provision.kit import SERVER
    from flip_fl.reporting.site_news import read

    try:
        beside = controlling_kit(kits).folder.resolve().parent
    except FlipError:
        return
    known = read(beside / SERVER / "state")
    since = datetime.now(UTC) - _RECENT
    recent = [one for one in known.second_holders if datetime.fromisoformat(one.last) > since]
    for one in recent[-_SHOWN:]:
        many = f"{one.times} times from {one.first} to {one.last}" if one.times > 1 else f"at {one.last}"
        why = "whoever has the key is that site: it is the trust's own second machine, or somebody else's"
        fix = f"stop one of the two; if the trust knows of none: flip-fl kit revoke {one.slot}"
        yield Check("copies", "warn", f"{one.words}; {many}", why, fix)
    for clock in known.clocks:
        way = f"{difference(clock.ahead_s)}{' of' if clock.ahead_s > 0 else ''}"
        what = f"the clock of {clock.slot} is {way} the server's"
        yield Check("clocks", "warn", f"{what}, as of {clock.seen}", "its times look wrong", "set it by NTP there")


@contextlib.contextmanager
def _named(settings: ServerSettings) -> Iterator[None]:
    try:
        yield
    except HttpConnectionError as error:
        raise FlipError("E0403", url=settings.hub_url, problem=error, safe="nothing was changed") from None
    except HttpStatusError as error:
        if error.status_code == HTTPStatus.FORBIDDEN:
            shown = token_refused(settings, error).facts["token"]
            raise FlipError("E0413", token=shown, reason="the slots are an operator's to see", fix=_OPERATOR) from None
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            raise token_refused(settings, error) from None
        raise _no_hub(settings, f"GET /slots is {error.status_code}") from None
    except (ValueError, KeyError, TypeError):
        raise _no_hub(settings, "its answer to GET /slots is no list of slots") from None


def _no_hub(settings: ServerSettings, evidence: str) -> FlipError:
    suggestion = "set FLIP_API_INTERNAL_URL to the hub's base URL (it ends in /api)"
    return FlipError("E0402", url=settings.hub_url, evidence=evidence, suggestion=suggestion)
