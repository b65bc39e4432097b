"""How existing sites configure their privacy: by variables ``FL_SITE_PRIVACY_*``, or the file ``ACCESS_POLICY_FILE``.

Both give a ``SitePolicy`` with filters, and leave the rest of a site as it was: without a policy file of ours, no name
of a metric must be declared and no level of isolation is demanded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flip_fl.errors import FlipError
from flip_fl.privacy.policy import Egress, Filters, Isolation, SitePolicy
from flip_fl.privacy.policy_file import line_of, read_toml, refused

PREFIX = "FL_SITE_PRIVACY_"
POLICY = f"{PREFIX}POLICY"
SECTION = "fl_privacy"
# Each kind of filter with its parameters, as the variables end and as our policy file calls them.
KINDS: Mapping[str, Mapping[str, str]] = {
    "percentile": {"PERCENTILE": "percentile", "GAMMA": "gamma"},
    "clipping": {"CLIPPING_NORM": "norm"},
    "gaussian": {"EPSILON": "epsilon", "DELTA": "delta", "CLIPPING_NORM": "clipping_norm"},
}
KNOWN = tuple(dict.fromkeys([POLICY, *(f"{PREFIX}{name}" for names in KINDS.values() for name in names)]))
# What the trust's data-access service reads of the same document.
_OTHERS = frozenset({"disclosure", "access"})
_ENGINES = frozenset({"nvflare", "flower"})


def policy_of_variables(values: Mapping[str, str], place: str) -> SitePolicy:
    """The policy that ``FL_SITE_PRIVACY_*`` describe. Raises ``FlipError`` E0971 naming the variable."""
    for name in values:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1)
            raise _bad(name, f"there is no such name{f', did you mean {near[0]}?' if near else ''}", place)
    kind = values.get(POLICY, "")
    if kind not in KINDS:
        raise _bad(POLICY, f"it is {kind!r}" if kind else "it is not set, and others are", place)
    given: dict[str, Any] = {}
    for name, text in values.items():
        if name == POLICY:
            continue
        ours = KINDS[kind].get(name.removeprefix(PREFIX))
        if ours is None:
            raise _bad(name, f"it is no parameter of '{kind}'", place)
        try:
            given[ours] = float(text)
        except ValueError:
            raise _bad(name, "it is no number", place) from None
    try:
        return _filtering(kind, given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        ending = {ours: name for name, ours in KINDS[kind].items()}.get(str(problem["loc"][-1]), "POLICY")
        raise _bad(f"{PREFIX}{ending}", _lower(problem["msg"]), place) from None


def policy_of_document(path: Path, engine: str | None = None) -> SitePolicy | None:
    """The policy that section ``fl_privacy`` of the governance document ``path`` describes, None where it has none.

    The section may be one for each engine (``fl_privacy.nvflare``). Of ``disclosure`` its ``min_cohort_size`` holds
    here, too; ``access`` is for the trust's data-access service alone. Raises ``FlipError`` E0970.
    """
    text, document = read_toml(path)
    for name in document:
        if name not in _OTHERS and name != SECTION:
            raise refused(path, line_of(text, [name]), f"'{name}' is no section of an access policy")
    section, at = document.get(SECTION), [SECTION]
    if isinstance(section, dict) and set(section) & _ENGINES:
        if set(section) - _ENGINES:
            raise refused(path, line_of(text, at), f"[{SECTION}] is for all engines or for each: it mixes both")
        at = [SECTION, engine or ""]
        section = section.get(engine or "")
    least = (
        document.get("disclosure", {}).get("min_cohort_size") if isinstance(document.get("disclosure"), dict) else None
    )
    if least is not None and (isinstance(least, bool) or not isinstance(least, int) or least < 0):
        at = ["disclosure", "min_cohort_size"]
        raise refused(path, line_of(text, at), "'min_cohort_size' must be a whole number from 0")
    if section is None:
        return _filtering(None, {}, least) if least is not None else None
    return _filtering(*_section(section, at, path, text), least)


def _section(section: Any, at: list[str], path: Path, text: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(section, dict):
        raise refused(path, line_of(text, at), f"[{'.'.join(at)}] is no section")
    kind = section.get("policy")
    if not isinstance(kind, str) or kind not in KINDS:
        raise refused(path, line_of(text, [*at, "policy"]), f"'policy' must be one of {', '.join(KINDS)}")
    names = {name.lower(): ours for name, ours in KINDS[kind].items()}
    given: dict[str, Any] = {}
    for name, value in section.items():
        if name == "policy":
            continue
        if name not in names:
            raise refused(path, line_of(text, [*at, name]), f"'{name}' is no parameter of '{kind}'")
        given[names[name]] = value
    try:
        _filtering(kind, given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = str(problem["loc"][-1])
        raise refused(path, line_of(text, [*at, name]), f"'{name}': {_lower(problem['msg'])}") from None
    return kind, given


def _filtering(kind: str | None, given: Mapping[str, Any], min_cohort: int | None = None) -> SitePolicy:
    filters = {} if kind is None else {kind: dict(given)}
    return SitePolicy(
        isolation=Isolation(level="none"),
        filters=Filters.model_validate(filters),
        egress=Egress(require_declared=False, min_cohort=min_cohort or 0),
    )


def _bad(name: str, problem: str, place: str) -> FlipError:
    return FlipError("E0971", name=name, problem=problem, place=place, known=", ".join(KNOWN), kinds=", ".join(KINDS))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
