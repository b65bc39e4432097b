"""Which engine a kit leads to, and how a job for it is written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.app.config import CONFIG_FILE, AppConfig
from flip_fl.app.secure import check_engine
from flip_fl.errors import FlipError
from flip_fl.provision.kit import ADMIN, SERVER, Kit, KitRole, kits_in, read_kit, role_of

if TYPE_CHECKING:
    from flip_fl.jobs.engine import FederationJobs
    from flip_fl.jobs.submit import Writer
    from flip_fl.jobs.templates import JobValues

FLOWER = "flower"


def controlling_kit(path: Path) -> Kit:
    """The kit that jobs are submitted with: ``path`` itself, or the right one of the kits in it.

    Raises ``FlipError`` E0547 for anything else, E0610 for a kit that is broken.
    """
    if role_of(path) is None:
        kits = {kit.name: kit for kit in kits_in(path)}
        found = kits.get(ADMIN) or kits.get(SERVER)
        if found is None:
            problem = "there is no such folder" if not path.exists() else "it holds neither"
            raise FlipError("E0547", path=path, problem=problem, fix="give it with --kit")
        path = found
    kit = read_kit(path)
    wanted = KitRole.SERVER if _engine(kit) == FLOWER else KitRole.ADMIN
    if kit.role is not wanted:
        fix = f"--kit {path.parent / (SERVER if wanted is KitRole.SERVER else ADMIN)}"
        raise FlipError("E0547", path=path, problem=f"it is the kit of {kit.name}", fix=fix)
    return kit


def engine_of(kit: Kit) -> FederationJobs:
    """The federation that ``kit`` leads to; the caller closes it. Raises ``FlipError`` E0509, E0543."""
    if _engine(kit) == FLOWER:
        from flip_fl.jobs.flower import FlowerJobs
        from flip_fl.provision.nodes import registered

        # As a server that runs keeps them.
        state = kit.folder.resolve() / "state"
        return FlowerJobs(
            kit.folder, state / "flwr", lambda: {slot: node.node_id for slot, node in registered(state).items()}
        )
    from flip_fl.jobs.nvflare import NvflareJobs

    return NvflareJobs(kit.folder, kit.name, kit.address)


def settings_in(kit: Kit) -> Path | None:
    """The FL server's settings in ``kit``, or in the server's kit beside it; None where neither has any."""
    name = f"{SERVER}.env" if _engine(kit) == FLOWER else "flip.env"
    for folder in (kit.folder, kit.folder.resolve().parent / SERVER):
        file = folder / "local" / name
        if file.is_file():
            return file
    return None


def writer_of(kit: Kit, config: AppConfig) -> Writer:
    """How a job of the app is written for the engine of ``kit``."""
    return partial(_write_flower if _engine(kit) == FLOWER else _write_nvflare, config)


def _write_nvflare(config: AppConfig, values: JobValues, digest: str, room: Path) -> Path:
    from flip_fl.jobs.nvflare import DIGEST
    from flip_fl.nvflare.job import CUSTOM, place_at, write_job

    check_engine(config, "nvflare")
    job = write_job(config.app_dir, config.job_type.value, values, room / str(values.model_id))
    (job / CUSTOM / CONFIG_FILE).write_text(config.for_run(values.model_id), encoding="utf-8")
    place_at(job, values.slots, **{DIGEST: digest})
    return job


def _write_flower(config: AppConfig, values: JobValues, digest: str, room: Path) -> Path:
    from flip_fl.flower.job import APP, PROJECT, with_version, write_job
    from flip_fl.jobs.flower_answers import version_of

    # Flower's name for an app's folder has at most 32 characters.
    job = write_job(config.app_dir, config.job_type.value, values, room / "flip-job")
    (job / APP / CONFIG_FILE).write_text(config.for_run(values.model_id), encoding="utf-8")
    project = job / PROJECT
    text = project.read_text(encoding="utf-8")
    project.write_text(with_version(text, version_of(values.model_id, digest)), encoding="utf-8")
    return job


def _engine(kit: Kit) -> str:
    return kit.record.engine if kit.record is not None else "nvflare"
