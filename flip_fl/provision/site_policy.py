"""What a site's policy is, as its kit's start asks before it starts anything, and `kit verify` tells it."""

from __future__ import annotations

from collections.abc import Iterator

from flip_fl.errors import FlipError
from flip_fl.privacy.policy import SitePolicy
from flip_fl.privacy.policy_file import POLICY_FILE
from flip_fl.privacy.site_policy import site_policy
from flip_fl.provision.extras import LOCAL, settings_name
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole


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
        fix = f"uncomment in {LOCAL}/{POLICY_FILE} what this site demands; to demand nothing is a choice, too"
        yield Finding("policy", "warn", f"none: {LOCAL}/{POLICY_FILE} says nothing", why, fix)
        return
    chosen = policy.filters.of_stage(None)
    names = [name for name in ("clipping", "percentile", "gaussian") if getattr(chosen, name) is not None]
    told = [f"filters: {', '.join(names) or 'none'}"]
    told += [f"[{name}] is filled in" for name in ("isolation", "egress") if getattr(policy, name, None) is not None]
    if policy.budget is not None:
        told.append(f"budget: epsilon {policy.budget.epsilon:g} at delta {policy.budget.delta:g}")
    yield Finding("policy", "ok", "; ".join(told))
