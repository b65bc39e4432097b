"""Making kits in a folder: the first ones, more under the same CA, or all anew. Everything is built aside and moved."""

from __future__ import annotations

import errno
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flip_fl import __version__
from flip_fl.errors import FlipError
from flip_fl.provision import authority, engines
from flip_fl.provision.authority import Authority, Issued, Ledger
from flip_fl.provision.extras import write_extras
from flip_fl.provision.kit import (
    ADMIN,
    RECORD,
    SERVER,
    STARTUP,
    KitRecord,
    KitRole,
    kits_in,
    load_certificate,
    slot_number,
)
from flip_fl.provision.project import MAX_SLOTS, Federation, slot_names
from flip_fl.values import natural_key

_STAGING = ".staging-"


@dataclass(frozen=True)
class Made:
    """What was made: the federation as it is now, the new kits in order, and where the old ones lie, if any did."""

    federation: Federation
    folder: Path
    kits: list[Issued]
    replaced: Path | None = None


def provision(federation: Federation, out: Path) -> Made:
    """Make a CA and all kits of ``federation`` in ``out``, which is absent or empty.

    Raises ``FlipError`` E0601 when kits exist there and E0608 when something else does, both before a byte is
    written; E0609 when NVFLARE fails.
    """
    refuse_existing(out, federation.slots)
    with _staging(out) as stage:
        built = _build_all(federation, stage)
        try:
            _move(built.names, stage, out)
        except OSError:
            # Somebody else was faster; the CA's folder is moved first and only once.
            refuse_existing(out, federation.slots)
            raise
    return Made(federation, out, built.issued)


def add(out: Path, count: int) -> Made:
    """Make kits for ``count`` more slots under the CA of ``out``; no existing kit is touched.

    Raises ``FlipError`` E0606 when there are no kits, E0607 when the CA cannot issue, E0602 for too many, E0609.
    """
    if not authority.exists(out):
        raise FlipError("E0606", folder=shown(out), act="add to", fix=f"flip-fl provision -n {count}{_out(out)}")
    ca = authority.read(out)
    # A number is never given out twice, also if a crash came between a kit and the ledger.
    numbers = [slot_number(name) or 0 for name in (*ca.ledger.sites, *(kit.name for kit in kits_in(out)))]
    last = max(numbers, default=0)
    slots = slot_names(last + 1, last + count)
    if last + count > MAX_SLOTS:
        expected = f"a whole number from 1 to {MAX_SLOTS - last}, for {last} of {MAX_SLOTS} slots exist"
        raise FlipError("E0602", key="--add", value=count, expected=expected, why="", fix="make another net")
    for slot in slots:
        if (out / slot).exists():
            raise FlipError("E0608", folder=shown(out), name=slot)
    federation = ca.ledger.federation.model_copy(update={"slots": last + count})
    with _staging(out) as stage:
        issued = _build_kits(federation, slots, stage, ca)
        try:
            _move(slots, stage, out)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Whoever adds at the same time begins at the same number, so nothing was moved.
            fix = f"flip-fl provision --add {count}{_out(out)}"
            raise FlipError("E0608", folder=shown(out), name=slots[0], fix=fix) from None
    authority.write_ledger(
        out / authority.FOLDER,
        ca.ledger.model_copy(update={"federation": federation, "issued": [*ca.ledger.issued, *issued]}),
    )
    return Made(federation, out, issued)


def replace_all(federation: Federation, out: Path) -> Made:
    """Make a new CA and all kits anew; the old CA and kits are moved to ``<out>/replaced-<time>``, not deleted.

    Raises ``FlipError`` E0609, with everything as it was.
    """
    with _staging(out) as stage:
        built = _build_all(federation, stage)
        old = [authority.FOLDER, *(path.name for path in kits_in(out))]
        grave = out / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        grave.mkdir(mode=0o700)
        for name in old:
            if (out / name).exists():
                (out / name).rename(grave / name)
        _move(built.names, stage, out)
    return Made(federation, out, built.issued, grave)


def refuse_existing(out: Path, wanted: int) -> None:
    """Raises ``FlipError`` E0601 when ``out`` holds kits or handed them out, E0608 when it holds anything else."""
    kits = kits_in(out)
    if kits or authority.exists(out):
        known = authority.read_ledger(out).sites if authority.exists(out) else []
        sites = len({*known, *(kit.name for kit in kits if slot_number(kit.name))})
        more = wanted - sites if wanted > sites else 2
        fix = f"flip-fl provision --add {more}{_out(out)}   or   flip-fl provision --replace-all --yes{_out(out)}"
        told = f"{sites} site" if sites == 1 else f"{sites} sites"
        raise FlipError("E0601", sites=told, count=sites, folder=shown(out), fix=fix)
    strange = [path.name for path in _entries(out) if not path.name.startswith(_STAGING)]
    if strange:
        raise FlipError("E0608", folder=shown(out), name=sorted(strange)[0])


def shown(out: Path) -> str:
    """``out`` as people write it: ``./kits`` or absolute."""
    return str(out) if out.is_absolute() or out.parts[:1] == ("..",) else f"./{out}"


def _out(out: Path) -> str:
    return "" if out == Path("kits") else f" --out {shlex.quote(str(out))}"


def _entries(out: Path) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise FlipError("E0608", folder=shown(out.parent), name=out.name)
    return list(out.iterdir()) if out.is_dir() else []


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A private folder in ``out``, so that moving is renaming; gone afterwards, and ``out`` with it if nothing came."""
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if new and not any(out.iterdir()):
            out.rmdir()


@dataclass(frozen=True)
class _Staged:
    names: list[str]
    issued: list[Issued]


def _build_all(federation: Federation, stage: Path) -> _Staged:
    """A CA and all kits below ``stage``; the CA's folder is named first, so that it is moved first."""
    engine = engines.maker(federation.engine)
    built = engine.build(federation, slot_names(1, federation.slots), stage / "workspace")
    pem = (built.folders[SERVER] / STARTUP / "server.crt").read_text(encoding="ascii")
    names = sorted(built.folders, key=_kit_order)
    issued = [_finish(name, built.folders[name], stage, federation, engine.version(), pem) for name in names]
    ledger = Ledger(federation=federation, server_certificate=pem, issued=issued)
    authority.write(stage / authority.FOLDER, Authority(built.root.certificate, built.root.key, ledger))
    return _Staged([authority.FOLDER, *names], issued)


def _build_kits(federation: Federation, slots: Sequence[str], stage: Path, ca: Authority) -> list[Issued]:
    engine = engines.maker(federation.engine)
    built = engine.build(federation, slots, stage / "workspace", engines.Root(ca.certificate, ca.key))
    pem = ca.ledger.server_certificate
    return [_finish(name, built.folders[name], stage, federation, engine.version(), pem) for name in slots]


def _finish(
    name: str, source: Path, stage: Path, federation: Federation, engine_version: str, server_certificate: str
) -> Issued:
    """Move one kit from the engine's workspace to ``stage/name``, close it to others and add ``kit.json``."""
    role = {SERVER: KitRole.SERVER, ADMIN: KitRole.ADMIN}.get(name, KitRole.SITE)
    kit = stage / name
    source.rename(kit)
    kit.chmod(0o700)
    record = KitRecord(
        net=federation.net,
        engine=federation.engine,
        name=name,
        role=role,
        host=federation.server.host,
        port=federation.server.port,
        server_certificate=server_certificate,
        flip_fl=__version__,
        engine_version=engine_version,
        made_at=datetime.now(UTC),
    )
    (kit / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_extras(kit, record)
    return Issued.of(name, role, load_certificate(kit / STARTUP / f"{role.stem}.crt"))


def _kit_order(name: str) -> tuple[int, object]:
    return {SERVER: 0, ADMIN: 1}.get(name, 2), natural_key(name)


def _move(names: Sequence[str], stage: Path, out: Path) -> None:
    for name in names:
        (stage / name).rename(out / name)
