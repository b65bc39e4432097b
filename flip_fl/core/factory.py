"""``FLIP()``: the client that a process needs, chosen by its job type, its role and its settings."""

from __future__ import annotations

from pathlib import Path

from flip_fl.core.base import FLIPBase
from flip_fl.errors import printable
from flip_fl.settings import is_dev, own_settings_file
from flip_fl.values import JobType, Role


def FLIP(
    job_type: JobType | str = JobType.STANDARD,
    role: Role | str | None = None,
    *,
    settings_file: Path | str | None = None,
) -> FLIPBase:
    """The client for ``job_type`` ("standard", "evaluation", "fed_opt", "diffusion_model").

    ``LOCAL_DEV`` picks development or production; ``role`` ("server" or "client") is what a production process says
    of itself, else ``FLIP_ROLE``, else the one key present. Settings come from ``settings_file``, else the file of the
    site whose process this is (``own_settings_file``), else the environment, when this is called and never at import;
    a script that a site runs beside itself has none and asks the site.
    Raises ``ValueError`` for an unknown job type or role, and ``FlipError`` E0401 and E0404 to E0406 for settings that
    are missing, malformed or ambiguous.
    """
    try:
        JobType(job_type)
    except ValueError:
        known = ", ".join(kind.value for kind in JobType)
        raise ValueError(f"Unknown job type '{printable(job_type)}'. Known job types: {known}") from None
    said = None if role is None else Role(role)
    from flip_fl.core.beside import FLIPBeside, given
    from flip_fl.core.standard import FLIPStandardDev, FLIPStandardProd

    source = given()
    if source is not None and settings_file is None:
        return FLIPBeside(source)
    file = own_settings_file() if settings_file is None else Path(settings_file)
    if is_dev(file):
        return FLIPStandardDev(settings_file=file)
    return FLIPStandardProd(role=said, settings_file=file)
