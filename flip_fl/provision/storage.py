"""Where an FL server keeps its jobs: in its own kit, not in a folder of the machine that every server shares."""

from __future__ import annotations

import os

from nvflare.app_common.storages.filesystem_storage import FilesystemStorage


class KitStorage(FilesystemStorage):  # type: ignore[misc]
    """NVFLARE's storage below a folder of the kit.

    A kit does not know where it will be unpacked, and the base class takes only absolute paths; the server's
    processes run in the kit's folder.
    """

    def __init__(self, root_dir: str, uri_root: str = "/") -> None:
        super().__init__(root_dir=os.path.abspath(root_dir), uri_root=uri_root)
