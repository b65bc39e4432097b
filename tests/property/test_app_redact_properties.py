"""Scrubbing a message, for any message: what is no code's own word does not come through."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from flip_fl.app.redact import scrub
from flip_fl.app.vocabulary import Vocabulary

WORDS = ("could not read", "the cohort", "column", "feature_12", "not in index", "radius_mean")
VOCABULARY = Vocabulary(words=set(WORDS), names={"train", "int"})
TEMPLATES = (
    "could not convert string to float: {!r}",
    "invalid literal for int() with base 10: {!r}",
    "{} is not in list",
    "name '{}' is not defined",
    "'int' object has no attribute '{}'",
    "No module named '{}'",
    "{}",
    "{!r}",
    "column {}",
    "{} not in index",
    "the cohort{}the cohort",
    "the cohort {} could not read {!r}",
    "column{}",
    "train() got an unexpected keyword argument '{}'",
    "[Errno 2] No such file or directory: '/data/{}/scan.nii'",
    "index {} is out of bounds for axis 0 with size 3",
)
PLAIN = set(re.findall(r"\w+", " ".join([*TEMPLATES, *WORDS, "message withheld characters value name"])))
secrets = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=20)


@given(st.sampled_from(TEMPLATES), secrets, st.booleans())
def test_no_word_of_a_value_comes_through(template: str, secret: str, short: bool) -> None:
    """Whatever the value is and wherever it stands, none of its words is in what is said."""
    said = scrub(template.format(secret, secret), VOCABULARY, short=short)
    allowed = PLAIN | {str(len(template.format(secret, secret)))}
    for word in re.findall(r"\w+", secret):
        if word not in allowed:
            assert word not in re.findall(r"\w+", said)


@given(st.text(max_size=300))
def test_any_text_can_be_scrubbed(text: str) -> None:
    """No message makes the scrubber fail or grow it."""
    said = scrub(text, VOCABULARY)
    assert len(said) <= max(len(text) * 8, 60)
