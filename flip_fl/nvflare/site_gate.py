"""A site's own filter (``local/privacy.json`` of a kit): under a policy only what our executor has held to it leaves.

A job may name another executor that NVFLARE has, whose results never met the policy. NVFLARE runs a site's filters for
every job and before the job's own; what this one raises is a failed task.
"""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from flip_fl.errors import FlipError
from flip_fl.privacy.site_policy import site_policy
from flip_fl.settings import settings_place

# In the context of one task, under which our executor puts the very result that it gives.
HELD_TO_POLICY = "flip_fl.held_to_policy"


class SiteGate(Filter):
    """Lets pass what ``FlipExecutor`` gave, failures, and where the site has no policy everything."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Raises ``FlipError`` E0973 for a result that the policy never saw, and as ``site_policy`` does."""
        if shareable.get_return_code() not in (ReturnCode.OK, None):
            return shareable
        if fl_ctx.get_prop(HELD_TO_POLICY) is shareable:
            return shareable
        workspace = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
        if site_policy(settings_place(fl_ctx.get_identity_name(), workspace), "nvflare") is not None:
            problem = "it was not made by flip_fl's executor, so that nothing of the policy was applied"
            raise FlipError("E0973", subject="a result", problem=problem)
        return shareable
