"""The document that page and report are drawn from."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from flip_fl.dashboard.story import SCHEMA, BaselineRow, Point, Story, StoryModel
from flip_fl.values import ModelStatus
from tests.support import dashboard


@pytest.mark.parametrize("name", dashboard.ALL)
def test_a_story_survives_the_way_through_json(name: str) -> None:
    """What one program writes another reads back unchanged, derived fields included."""
    story = dashboard.ALL[name]()
    assert Story.model_validate_json(story.model_dump_json()) == story


def test_the_schema_is_called_schema() -> None:
    """A reader finds the document's version under its agreed key, however the story is dumped."""
    story = dashboard.empty()
    for document in (json.loads(story.model_dump_json()), story.model_dump(mode="json")):
        assert document["schema"] == SCHEMA
        assert "schema_" not in document


def test_another_schema_is_refused() -> None:
    """A story of a later version is not misread as one of ours."""
    document = json.loads(dashboard.empty().model_dump_json()) | {"schema": "flip-fl.story/2"}
    with pytest.raises(ValidationError):
        Story.model_validate(document)


def test_times_without_a_zone_are_utc() -> None:
    """SQLite forgets the zone; a browser would read such a time as local."""
    story = Story(
        generated_at=datetime(2026, 11, 22, 13, 0),
        model=StoryModel(id="1", name="a"),
        status=ModelStatus.PENDING,
    )
    assert story.generated_at == datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
    assert json.loads(story.model_dump_json())["generated_at"].endswith("Z")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_spell_become_null(value: float) -> None:
    """A diverged model must not make the story unreadable."""
    assert Point(x=1, y=value, round=1).y is None
    row = BaselineRow(model="global", scored_on="Trust_1", metrics={"loss": value, "auc": 0.5})
    assert json.loads(row.model_dump_json())["metrics"] == {"loss": None, "auc": 0.5}


def test_a_coordinate_must_be_finite() -> None:
    """A point without a place on the axis is an error, not a gap."""
    with pytest.raises(ValidationError):
        Point(x=math.nan, y=1.0, round=1)
