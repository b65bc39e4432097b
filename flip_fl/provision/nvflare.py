"""Kits for NVFLARE, made by its own provisioning library; ours is only what it does not offer as an argument."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.fuel.f3.drivers.grpc_driver import GRPC_DEFAULT_OPTIONS
from nvflare.lighter.constants import CtxKey, ParticipantType, PropKey, ProvFileName
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.spec import Builder
from nvflare.lighter.utils import serialize_cert, serialize_pri_key

from flip_fl.errors import FlipError
from flip_fl.provision.engines import Built, Root
from flip_fl.provision.kit import ADMIN, SERVER
from flip_fl.provision.project import MAX_SLOTS, Federation

ADMIN_NAME = "admin@flip.local"
ADMIN_ROLE = "project_admin"
OPERATOR = "flip"
# Slots are added under the CA of the first day, so it must outlive many generations of certificates (360 days each).
CA_VALID_DAYS = 3650
HEARTBEAT_TIMEOUT_S = 60
ALLOWED_CLASSES = (
    *DEFAULT_CLASS_ALLOW_LIST,
    "flip_fl.nvflare.",
    "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
    "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
)
RESOURCES = "resources.json"
PRIVACY = "privacy.json"
COMMUNICATION = "comm_config.json"
# A link that ends without a word (a server that moves, a firewall that forgets) is noticed by nobody but who asks: both
# sides ask on a connection that is silent, and give up one that does not answer. Longer than a break that TCP mends.
ASK_EVERY_S = 30
NO_ANSWER_S = 60
# Below the kit's folder, in which the server's processes run.
STORE = "."
JOBS = "state/jobs"
SNAPSHOTS = "state/snapshots"
# Under a policy of the site only results of our executor leave it, whatever executor a job names.
_SCOPE: dict[str, Any] = {
    "name": "site",
    "properties": {},
    "task_data_filters": [],
    "task_result_filters": [{"path": "flip_fl.nvflare.site_gate.SiteGate", "args": {}}],
}
_PRIVACY = {"scopes": [_SCOPE], "default_scope": _SCOPE["name"]}
_STORAGE = "flip_fl.provision.storage.KitStorage"
_SCHEDULER = "flip_fl.nvflare.scheduler.FlipJobScheduler"
# Ours beside NVFLARE's, in the server's parent process.
_OURS = [
    {"id": "one_holder", "path": "flip_fl.nvflare.one_holder.OneHolder", "args": {}},
    {"id": "lost_sites", "path": "flip_fl.nvflare.lost_sites.LostSites", "args": {}},
    {"id": "fresh_start", "path": "flip_fl.nvflare.fresh_start.FreshStart", "args": {}},
]


_GRPC: dict[str, int] = {
    "grpc.keepalive_time_ms": ASK_EVERY_S * 1000,
    "grpc.keepalive_timeout_ms": NO_ANSWER_S * 1000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    # What a server permits; more often than that it would take for an attack.
    "grpc.http2.min_recv_ping_interval_without_data_ms": ASK_EVERY_S * 1000 // 2,
    "grpc.http2.max_ping_strikes": 0,
}


class NvflareKits:
    """See ``engines.KitMaker``. NVFLARE's own state in the workspace holds every key."""

    def version(self) -> str:
        return metadata.version("nvflare")

    def build(self, federation: Federation, slots: Sequence[str], workspace: Path, root: Root | None = None) -> Built:
        return _build(federation, slots, workspace, root)


def _build(federation: Federation, slots: Sequence[str], workspace: Path, root: Root | None) -> Built:
    journal = _Journal()
    project = _project(federation, slots, root)
    provisioner = Provisioner(
        str(workspace),
        [
            WorkspaceBuilder(),
            StaticFileBuilder(config_folder="config", scheme="grpc"),
            ResourcesBuilder(),
            CertBuilder(root_valid_days=CA_VALID_DAYS),
            SignatureBuilder(),
        ],
    )
    # On failure the library prints a traceback by itself.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            context = provisioner.provision(project, logger=journal)
        except Exception as error:
            raise FlipError("E0609", problem=str(error) or type(error).__name__) from error
    place = context.get_result_location()
    if context.get(CtxKey.BUILD_ERROR) or place is None:
        raise FlipError("E0609", problem="; ".join(journal.errors) or "it ended without a result")
    names = {name: name for name in slots}
    if root is None:
        names |= {SERVER: SERVER, ADMIN: ADMIN_NAME}
    made = Root(serialize_cert(context[CtxKey.ROOT_CERT]), serialize_pri_key(context[CtxKey.ROOT_PRI_KEY]))
    return Built(made, {name: Path(place) / folder for name, folder in names.items()})


# A job's app is not on the path of the process that holds a key.
_NVFLARES = "nvflare.app_common.job_launcher"
_LAUNCHERS = {
    f"{_NVFLARES}.client_process_launcher.ClientProcessJobLauncher": "flip_fl.nvflare.launcher.SiteLauncher",
    f"{_NVFLARES}.server_process_launcher.ServerProcessJobLauncher": "flip_fl.nvflare.launcher.ServerLauncher",
}


class ResourcesBuilder(Builder):  # type: ignore[misc]
    """Writes ``local/resources.json`` and ``comm_config.json``: what the template takes no argument for."""

    def build(self, project: Project, ctx: Any) -> None:
        for participant in project.get_all_participants([ParticipantType.SERVER, ParticipantType.CLIENT]):
            local = Path(ctx.get_local_dir(participant))
            resources = json.loads((local / ProvFileName.RESOURCES_JSON_DEFAULT).read_text(encoding="utf-8"))
            resources["class_allow_list"] = list(ALLOWED_CLASSES)
            for component in resources["components"]:
                component["path"] = _LAUNCHERS.get(component["path"], component["path"])
            if participant.type == ParticipantType.SERVER:
                _server(resources)
            else:
                # A site's error log may name patients' files, and NVFLARE streams it to the server unless told not to.
                # The participant's property of that name has no effect when it is false.
                resources[PropKey.ALLOW_LOG_STREAMING] = False
                (local / PRIVACY).write_text(json.dumps(_PRIVACY, indent=2) + "\n", encoding="utf-8")
            options = [*map(list, GRPC_DEFAULT_OPTIONS), *map(list, _GRPC.items())]
            (local / COMMUNICATION).write_text(
                json.dumps({"grpc": {"options": options}}, indent=2) + "\n", encoding="utf-8"
            )
            text = json.dumps(resources, indent=2)
            (local / RESOURCES).write_text(text + "\n", encoding="utf-8")


def _server(resources: dict[str, Any]) -> None:
    resources["servers"][0] |= {"heart_beat_timeout": HEARTBEAT_TIMEOUT_S, "max_num_clients": MAX_SLOTS}
    snapshots = resources["snapshot_persistor"]["args"]["storage"]
    snapshots |= {"path": _STORAGE, "args": {"root_dir": SNAPSHOTS}}
    components = {component["id"]: component for component in resources["components"]}
    components["job_manager"]["args"]["uri_root"] = JOBS
    components["job_scheduler"]["path"] = _SCHEDULER
    components["job_store"] |= {"path": _STORAGE, "args": {"root_dir": STORE}}
    resources["components"] += _OURS


def _project(federation: Federation, slots: Sequence[str], root: Root | None) -> Project:
    server = federation.server
    given: dict[str, Any] = {}
    if root is not None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        given = {
            "serialized_root_cert": root.certificate,
            "root_private_key": load_pem_private_key(root.key, password=None),
        }
    project = Project(federation.net, f"flip_fl net {federation.net}", **given)
    # The server's identity is its role; where it is reached stands in its certificate's SAN and may have many names.
    project.add_participant(
        Participant(
            ParticipantType.SERVER,
            SERVER,
            OPERATOR,
            {
                PropKey.DEFAULT_HOST: server.host,
                PropKey.HOST_NAMES: list(server.names[1:]),
                PropKey.FED_LEARN_PORT: server.port,
            },
        )
    )
    for slot in slots:
        project.add_participant(Participant(ParticipantType.CLIENT, slot, slot))
    if root is None:
        project.add_participant(Participant(ParticipantType.ADMIN, ADMIN_NAME, OPERATOR, {PropKey.ROLE: ADMIN_ROLE}))
    return project


class _Journal:
    """Keeps what the library would print."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, message: str) -> None:
        self.errors.append(message)

    def warning(self, message: str) -> None:
        """Warnings concern options that are not used here."""

    info = debug = warning
