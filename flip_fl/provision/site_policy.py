"""``python -m flip_fl.provision.site_policy KIT``: what a site's start script asks before it starts anything.

Ends with 0 where the kit's policy is understood, or there is none; with 1 and the line that is wrong where it is not:
such a site does not take part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.privacy.policy import SitePolicy
from flip_fl.privacy.policy_file import POLICY_FILE
from flip_fl.privacy.site_policy import site_policy
from flip_fl.provision.extras import LOCAL, settings_name
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole, read_kit


def policy_of(kit: Kit) -> SitePolicy | None:
    """The policy of the site with this ``kit``, None without one. Raises ``FlipError`` as ``site_policy`` does."""
    name = settings_name(kit.record) if kit.record is not None else "flip.env"
    return site_policy(kit.folder / LOCAL / name, kit.record.engine if kit.record is not None else None)


def policy_finding(kit: Kit) -> Iterator[Finding]:
    """What ``kit verify`` says of the policy of a site's kit."""
    if kit.role is not KitRole.SITE:
        return
    try:
        policy = policy_of(kit)
    except FlipError as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        yield Finding("policy", "fail", what, error.why, error.fix, error)
        return
    if policy is None:
        why = "jobs are not filtered, and may report under any name"
        yield Finding("policy", "ok", f"none: {LOCAL}/{POLICY_FILE} says nothing", why)
        return
    chosen = policy.filters.of_stage(None)
    names = [name for name in ("clipping", "percentile", "gaussian") if getattr(chosen, name) is not None]
    told = [f"filters: {', '.join(names) or 'none'}"]
    if policy.budget is not None:
        told.append(f"budget: epsilon {policy.budget.epsilon:g} at delta {policy.budget.delta:g}")
    yield Finding("policy", "ok", "; ".join(told))


def main(words: Sequence[str]) -> int:
    """The exit code for the kit in the folder ``words[0]``."""
    try:
        policy_of(read_kit(Path(words[0]).resolve()))
    except FlipError as error:
        sys.stderr.write(f"{error.text()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
