"""Taking a slot's kit out of the federation: its holder cannot connect any more, and nobody gets its number again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flip_fl.app.spelling import nearest
from flip_fl.errors import FlipError
from flip_fl.jobs.nvflare import NvflareJobs
from flip_fl.provision import authority
from flip_fl.provision.kit import ADMIN, NODES, SERVER, read_kit


@dataclass(frozen=True)
class Revocation:
    """A slot whose kit is not let in any more; ``since`` when (None: only looked at), ``already``: before this call.

    ``to_remove``: what must still be removed from the server's kit where that is not beside the CA.
    """

    slot: str
    since: datetime | None
    already: bool
    to_remove: str | None = None


def revoke(out: Path, slot: str, *, dry_run: bool = False) -> Revocation:
    """Keep the kit of ``slot`` out: of NVFLARE by the running server, of Flower by the server's kit in ``out``.

    NVFLARE disables names, not certificates (2.9): a revoked slot stays retired, and its trust gets a new one.
    Raises ``FlipError`` E0606 without kits, E0312 for a slot that has none, E0616 when the server cannot be told; then
    nothing has changed.
    """
    if not authority.exists(out):
        raise FlipError("E0606", folder=out, act="revoke one of", fix=f"give the folder that holds {authority.FOLDER}/")
    ledger = authority.read_ledger(out)
    if slot not in ledger.sites:
        near = nearest(slot, ledger.sites)
        told = f"did you mean {' or '.join(near)}?" if near else f"slots: {', '.join(ledger.sites[:12])}"
        raise FlipError("E0312", slot=slot, place=f" in {out}", suggestion=told, why="kits are made for slots")
    if slot in ledger.revoked:
        return Revocation(slot, ledger.revoked[slot], already=True)
    if dry_run:
        return Revocation(slot, None, already=False)
    to_remove = None
    if ledger.federation.engine == "flower":
        if (out / SERVER).is_dir():
            (out / SERVER / NODES / f"{slot}.crt").unlink(missing_ok=True)
        else:
            to_remove = f"{NODES}/{slot}.crt"
    else:
        _disable(out / ADMIN, slot)
    since = datetime.now(UTC)
    revoked = {**ledger.revoked, slot: since}
    authority.write_ledger(out / authority.FOLDER, ledger.model_copy(update={"revoked": revoked}))
    return Revocation(slot, since, already=False, to_remove=to_remove)


def _disable(kit: Path, slot: str) -> None:
    """Have the running NVFLARE server refuse ``slot`` from now on, also after a start. Raises ``FlipError`` E0616."""
    try:
        found = read_kit(kit)
        session = NvflareJobs(kit, found.name, found.address)
    except FlipError as error:
        raise FlipError("E0616", slot=slot, problem=error.what) from None
    try:
        session.disable(slot)
    except FlipError as error:
        raise FlipError("E0616", slot=slot, problem=str(error.facts["problem"])) from None
    finally:
        session.close()
