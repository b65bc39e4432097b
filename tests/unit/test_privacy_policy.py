"""A site's policy: read whole or not at all, and every mistake is told with its line."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from flip_fl.errors import FlipError
from flip_fl.privacy.policy import SitePolicy
from flip_fl.privacy.policy_file import read_policy
from flip_fl.privacy.site_policy import site_policy

WHOLE = """
[isolation]
level = "process"
memory_mb = 8000

[filters.clipping]
norm = 2
[filters.percentile]
percentile = 10.0
gamma = 0.5
[filters.gaussian]
epsilon = 1.0
delta = 1e-5
clipping_norm = 1.0
[filters.stage.dm.gaussian]
epsilon = 2.0
delta = 1e-5
clipping_norm = 1.0

[budget]
epsilon = 8.0
delta = 1e-5

[egress]
decimals = 4

[projects]
allow = ["one", "two"]
"""


def written(folder: Path, text: str, name: str = "policy.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_that_a_policy_may_say_is_read(tmp_path: Path) -> None:
    """Protects the sections and keys that docs/privacy.md promises, defaults included."""
    policy = read_policy(written(tmp_path, WHOLE))
    assert (policy.isolation.level, policy.isolation.memory_mb, policy.isolation.processes) == ("process", 8000, None)
    assert policy.filters.of_stage(None).gaussian == policy.filters.gaussian
    staged = policy.filters.of_stage("dm")
    assert staged.gaussian is not None
    assert (staged.gaussian.epsilon, staged.clipping) == (2.0, policy.filters.clipping)
    assert policy.egress.require_declared
    assert policy.egress.min_cohort == 10
    assert policy.projects.allow == ("one", "two")
    assert (policy.accounts, policy.delta) == (True, 1e-5)
    assert read_policy(written(tmp_path, "")) == SitePolicy()
    assert SitePolicy().isolation.level == "full"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[egress]\n[filtres.clipping]\nnorm = 1", 2, "'filtres' is not known in the policy: did you mean 'filters'?"),
        ("[filters.clipping]\n\nnrom = 1", 3, "did you mean 'norm'?"),
        ("[filters.clipping]\n# all of it\n", 1, "[filters.clipping] lacks 'norm'"),
        ("[filters.percentile]\npercentile = 101", 2, "less than or equal to 100"),
        ("[filters.percentile]\npercentile = -1", 2, "greater than or equal to 0"),
        ("[filters.percentile]\ngamma = 0", 2, "'gamma' of [filters.percentile]"),
        ("[filters.percentile]\ngamma = inf", 2, "'gamma' of [filters.percentile]"),
        ("[filters.clipping]\nnorm = nan", 2, "'norm' of [filters.clipping]"),
        ("[filters.gaussian]\nepsilon = 0\ndelta = 1e-5\nclipping_norm = 1", 2, "'epsilon'"),
        ("[filters.gaussian]\nepsilon = 1\ndelta = 1.0\nclipping_norm = 1", 3, "'delta'"),
        ('[filters.gaussian]\nepsilon = 1\ndelta = 1e-5\nclipping_norm = "1"', 4, "'clipping_norm'"),
        ("[filters.stage.xy.clipping]\nnorm = 1", 1, "'xy' is not known in [filters.stage]: it has ae, dm"),
        ('[isolation]\nlevel = "fulll"', 2, "'level' of [isolation]"),
        ("[isolation]\nlevel = true", 2, "'level' of [isolation]"),
        ("[egress]\nmin_cohort = true", 2, "'min_cohort' of [egress]"),
        ("egress.decimals = 0", 1, "'decimals' of [egress]"),
        ('[projects]\nallow = "one"', 2, "'allow' of [projects]"),
        ("[egress]\nmin_cohort = ", 2, "invalid value"),
        ("[egress]\n[egress]", 2, "cannot declare"),
        ("[filters.clipping\nnorm = 1", 1, "expected ']'"),
        ("[budget]\nepsilon = 1\ndelta = 1e-5", None, "[budget] needs [filters.gaussian]"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, line: int | None, words: str, tmp_path: Path) -> None:
    """A typo must never leave a weaker policy in force: the site does not start, its engineer sees the line."""
    path = written(tmp_path, text)
    with pytest.raises(FlipError) as raised:
        read_policy(path)
    assert raised.value.code == "E0970"
    assert raised.value.where == (f"{path}:{line}" if line else str(path))
    assert words in raised.value.what
    assert raised.value.exit_code == 2


def test_a_policy_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    """A site that names a policy has one, or does not take part."""
    with pytest.raises(FlipError, match="there is no such file"):
        read_policy(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FlipError, match="it is not UTF-8 text"):
        read_policy(tmp_path / "policy.toml")


def test_the_policy_lies_beside_the_settings_or_where_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kit's local/policy.toml holds without being named; what is named holds instead; else there is none."""
    settings = written(tmp_path, "LOCAL_DEV=true\n", "flip.env")
    assert site_policy(settings) is None
    assert site_policy(None) is None
    written(tmp_path, "[egress]\nmin_cohort = 11\n")
    found = site_policy(settings)
    assert found is not None
    assert found.egress.min_cohort == 11
    other = written(tmp_path, "[egress]\nmin_cohort = 12\n", "other.toml")
    monkeypatch.setenv("FLIP_SITE_POLICY", str(other))
    found = site_policy(settings)
    assert found is not None
    assert found.egress.min_cohort == 12
    monkeypatch.setenv("FLIP_SITE_POLICY", str(tmp_path / "gone.toml"))
    with pytest.raises(FlipError, match=r"gone.toml: there is no such file"):
        site_policy(settings)


def test_the_variables_of_existing_sites_give_the_same_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust that has configured its filter by FL_SITE_PRIVACY_ keeps it, with the values it has by default."""
    monkeypatch.setenv("FL_SITE_PRIVACY_POLICY", "percentile")
    policy = site_policy(None)
    assert policy is not None
    assert policy.filters.percentile is not None
    assert (policy.filters.percentile.percentile, policy.filters.percentile.gamma) == (10.0, 0.01)
    assert (policy.egress.require_declared, policy.egress.min_cohort, policy.isolation.level) == (False, 0, "none")
    settings = written(tmp_path, "FL_SITE_PRIVACY_PERCENTILE=25\nFL_SITE_PRIVACY_GAMMA=0.5\n", "flip.env")
    policy = site_policy(settings)
    assert policy is not None
    assert policy.filters.percentile is not None
    assert (policy.filters.percentile.percentile, policy.filters.percentile.gamma) == (25.0, 0.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"POLICY": "percentile", "PERCENTIL": "5"}, "did you mean FL_SITE_PRIVACY_PERCENTILE?"),
        ({"PERCENTILE": "5"}, "it is not set, and others are"),
        ({"POLICY": "dp"}, "it is 'dp'"),
        ({"POLICY": "percentile", "PERCENTILE": "101"}, "FL_SITE_PRIVACY_PERCENTILE"),
        ({"POLICY": "percentile", "GAMMA": "0"}, "FL_SITE_PRIVACY_GAMMA"),
        ({"POLICY": "percentile", "GAMMA": "a lot"}, "it is no number"),
        ({"POLICY": "percentile", "EPSILON": "1"}, "it is no parameter of 'percentile'"),
        ({"POLICY": "gaussian", "EPSILON": "1", "DELTA": "1e-5"}, "FL_SITE_PRIVACY_CLIPPING_NORM"),
    ],
)
def test_a_variable_that_is_not_understood_stops_the_site(
    values: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt name, a value out of range and a parameter of another filter never fall back to a default."""
    for name, value in values.items():
        monkeypatch.setenv(f"FL_SITE_PRIVACY_{name}", value)
    with pytest.raises(FlipError) as raised:
        site_policy(None)
    assert raised.value.code == "E0971"
    assert words in raised.value.what
    assert raised.value.exit_code == 2


def test_an_access_policy_document_gives_its_filter_and_its_smallest_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trust's governance document keeps its force on both engines, and its sections for others are left alone."""
    document = written(
        tmp_path,
        '[disclosure]\nmin_cohort_size = 25\n[[access.rule]]\nid = "no-export"\n'
        '[fl_privacy]\npolicy = "percentile"\npercentile = 20\n',
        "governance.toml",
    )
    monkeypatch.setenv("ACCESS_POLICY_FILE", str(document))
    policy = site_policy(None, "nvflare")
    assert policy is not None
    assert policy.filters.percentile is not None
    assert (policy.filters.percentile.percentile, policy.egress.min_cohort) == (20.0, 25)
    written(tmp_path, '[fl_privacy.nvflare]\npolicy = "percentile"\n', "governance.toml")
    found = site_policy(None, "nvflare")
    assert found is not None
    assert found.filters.percentile is not None
    assert site_policy(None, "flower") is None
    for text, words in (
        ('[fl_privacy]\npolicy = "percentile"\ngama = 1\n', "line 3: 'gama' is no parameter"),
        ('[fl_privcy]\npolicy = "percentile"\n', "line 1: 'fl_privcy' is no section"),
        ('[fl_privacy]\npolicy = "percentile"\ngamma = -1\n', "line 3: 'gamma'"),
        ("[fl_privacy]\ngamma = 1\n", "'policy' must be one of"),
    ):
        written(tmp_path, text, "governance.toml")
        with pytest.raises(FlipError, match=words):
            site_policy(None, "nvflare")


def test_two_descriptions_of_one_filter_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two holds is never guessed, and neither weakens the other."""
    settings = written(tmp_path, "LOCAL_DEV=true\n", "flip.env")
    written(tmp_path, "[filters.clipping]\nnorm = 1\n")
    monkeypatch.setenv("FL_SITE_PRIVACY_POLICY", "percentile")
    with pytest.raises(FlipError, match=r"the policy file policy.toml and FL_SITE_PRIVACY_POLICY") as raised:
        site_policy(settings)
    assert (raised.value.code, raised.value.exit_code) == ("E0972", 2)
    monkeypatch.setenv("ACCESS_POLICY_FILE", str(tmp_path / "policy.toml"))
    with pytest.raises(FlipError, match="ACCESS_POLICY_FILE and FL_SITE_PRIVACY_POLICY"):
        site_policy(None)


def test_a_file_of_comments_is_no_policy(tmp_path: Path) -> None:
    """A kit's template demands nothing before a person uncomments something, and then the defaults deny."""
    settings = tmp_path / "flip.env"
    policy = written(tmp_path, "# [egress]\n# min_cohort = 10\n")
    assert site_policy(settings) is None
    policy.write_text("[egress]\n", encoding="utf-8")
    found = site_policy(settings)
    assert found is not None
    assert found.egress.require_declared
    template = files("flip_fl.provision") / "kit_files" / "common" / "policy.toml"
    text = template.read_text(encoding="utf-8")
    assert not tomllib.loads(text)
    # All of it, uncommented, is a policy: no key of the template is misspelt.
    lines = [line.removeprefix("# ") for line in text.splitlines()[5:]]
    whole = read_policy(written(tmp_path, "\n".join(lines), "whole.toml"))
    assert whole.budget is not None
    assert set(whole.model_dump()) == set(SitePolicy.model_fields)
