"""Where the trust's database lies: ``OMOP_DATABASE_URL``, checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from flip_fl.errors import FlipError

OMOP = "omop"
OWN = "flip_trust"


@dataclass(frozen=True)
class Address:
    """``url`` as given; for SQLite, ``main`` is the file it names; the schema ``omop`` is another beside it."""

    url: URL
    main: Path | None = None

    @property
    def omop(self) -> Path:
        """The file that is attached as the schema ``omop`` (SQLite only): ``trust.omop.sqlite`` of ``trust.sqlite``."""
        assert self.main is not None
        return self.main.with_name(f"{self.main.stem}.{OMOP}{self.main.suffix}")

    @property
    def shown(self) -> str:
        """For people: the password hidden."""
        return self.url.render_as_string(hide_password=True)

    def unusable(self, problem: object, fix: str | None = None) -> FlipError:
        """``FlipError`` E0950; ``problem`` must be words of ours, or a driver's that hold no value."""
        return FlipError("E0950", url=self.shown, problem=problem, fix=fix)


def parse(url: str) -> Address:
    """The address in ``url`` (``sqlite:///<file>`` or ``postgresql://…``). Raises ``FlipError`` E0950."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise FlipError("E0950", url="(malformed)", problem="it is no database address") from None
    backend = address.get_backend_name()
    if backend in ("postgres", "postgresql"):
        return Address(address.set(drivername="postgresql+psycopg"))
    if backend != "sqlite":
        raise Address(address).unusable(f"{backend} is neither sqlite nor postgresql")
    if address.database in (None, "", ":memory:") or str(address.database).startswith("file:"):
        raise Address(address).unusable("it names no file")
    return Address(address, Path(str(address.database)).absolute())
