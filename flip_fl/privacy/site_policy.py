"""Where a site's policy comes from: its policy file, or, at existing sites, the names that they have."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.privacy.existing_names import policy_of_document, policy_of_variables
from flip_fl.privacy.policy import SitePolicy
from flip_fl.privacy.policy_file import POLICY_FILE, read_policy, read_toml
from flip_fl.settings import PolicySettings, load, privacy_variables

ACCOUNTING = "dp_accounting"


def site_policy(file: Path | None, engine: str | None = None) -> SitePolicy | None:
    """The policy of the site with the settings ``file`` (None: its settings are the environment); None: it has none.

    FLIP_SITE_POLICY, else ``policy.toml`` beside ``file`` (``file`` itself need not be there), else ACCESS_POLICY_FILE
    or ``FL_SITE_PRIVACY_*``. What is read is all of it, and of two nothing is guessed.

    Raises ``FlipError``: E0970 for a file that cannot be used, E0971 for a variable, E0972 for more than one source,
    E0509 where an accountant is needed that is not installed.
    """
    beside = file.parent / POLICY_FILE if file is not None else None
    file = file if file is not None and file.is_file() else None
    settings = load(PolicySettings, file)
    variables = privacy_variables(file)
    own = settings.policy_file or (beside if beside is not None and says_something(beside) else None)
    sources = [
        *([f"the policy file {own.name}"] if own is not None else []),
        *(["ACCESS_POLICY_FILE"] if settings.access_policy_file is not None else []),
        *([", ".join(sorted(variables))] if variables else []),
    ]
    if len(sources) > 1:
        raise FlipError("E0972", sources=" and ".join(sources))
    policy: SitePolicy | None = None
    if own is not None:
        policy = read_policy(own)
    elif settings.access_policy_file is not None:
        policy = policy_of_document(settings.access_policy_file, engine)
    elif variables:
        policy = policy_of_variables(variables, f"{file} or the environment" if file is not None else "the environment")
    if policy is not None:
        check_installed(policy)
    return policy


def says_something(file: Path) -> bool:
    """Whether ``file`` is there and holds more than comments: what lies in a kit as a template is no policy.

    Raises ``FlipError`` E0970 for a file that cannot be read.
    """
    return file.exists() and bool(read_toml(file)[1])


def check_installed(policy: SitePolicy) -> None:
    """Raises ``FlipError`` E0509 where ``policy`` needs an accountant and none is installed."""
    if policy.accounts and find_spec(ACCOUNTING) is None:
        needed = "the policy's Gaussian mechanism is kept account of"
        raise FlipError("E0509", part="dp-accounting", needed_for=needed, requirement="flip_fl[privacy]")
