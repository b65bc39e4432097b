"""What a kit holds beside its engine's files, for whoever installs it: README, settings, scripts, a service's unit."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from flip_fl.privacy.policy_file import POLICY_FILE
from flip_fl.provision.certificates import write_private
from flip_fl.provision.kit import STARTUP, KitRecord, KitRole

LOCAL = "local"
README = "README.md"
_SCRIPTS = ("start.sh", "stop.sh", "status.sh")
_AROUND = ("flip-fl.service", "Containerfile")
# What a unit and a container run in the foreground.
_COMMANDS = {"nvflare": "startup/sub_start.sh", "flower": "startup/start.sh"}
_NVFLARES_OWN = "readme.txt"
_NVFLARES_START = "sub_start.sh"
_HAND_OVER = (
    '[ -n "${FLIP_KIT_SUPERVISED:-}" ] || '
    'exec "${FLIP_PYTHON:-python3}" -m flip_fl.provision.serve "$(dirname "${BASH_SOURCE[0]}")/.."'
)


def settings_name(record: KitRecord) -> str:
    """The settings file in ``local/``, as the engine's processes look for it."""
    return f"{record.name}.env" if record.engine == "flower" else "flip.env"


def write_extras(folder: Path, record: KitRecord) -> None:
    """Add them to the kit in ``folder``. Settings are readable by their owner alone."""
    templates = files("flip_fl.provision") / "kit_files"
    own, common = templates / record.engine, templates / "common"
    facts = _facts(record)
    write_private(folder / README, _filled(own / f"README-{record.role.value}.md", facts))
    for name in (_NVFLARES_OWN, f"{STARTUP}/{_NVFLARES_OWN}"):
        (folder / name).unlink(missing_ok=True)
    if record.role is KitRole.ADMIN:
        return
    for name in _SCRIPTS:
        if (own / name).is_file():
            script = folder / STARTUP / name
            script.write_bytes(_filled(own / name, facts))
            script.chmod(0o755)
    for name in _AROUND:
        (folder / name).write_bytes(_filled(common / name, facts))
    (folder / LOCAL).mkdir(exist_ok=True, mode=0o700)
    settings = _filled(common / f"settings-{record.role.value}", facts)
    write_private(folder / LOCAL / settings_name(record), settings)
    if record.role is KitRole.SITE:
        write_private(folder / LOCAL / POLICY_FILE, _filled(common / POLICY_FILE, facts))
    if record.engine == "nvflare":
        _guard(folder / STARTUP / _NVFLARES_START)


def _guard(script: Path) -> None:
    """Let NVFLARE's own script, too, be run by what looks at policy and settings first, and lets a kit run once."""
    shebang, _, rest = script.read_text(encoding="utf-8").partition("\n")
    script.write_text(f"{shebang}\n{_HAND_OVER}\n{rest}", encoding="utf-8")


def _facts(record: KitRecord) -> dict[str, str]:
    wanted = "torch,s3" if record.role is KitRole.SERVER else "torch"
    return {
        "name": record.name,
        "net": record.net,
        "host": record.host,
        "port": str(record.port),
        "version": record.flip_fl,
        "extras": f"{record.engine},{wanted}",
        "command": _COMMANDS.get(record.engine, ""),
        "folder": f"/opt/flip/{record.name}",
    }


def _filled(template: Traversable, facts: dict[str, str]) -> bytes:
    text = template.read_text(encoding="utf-8")
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", value)
    return text.encode()
