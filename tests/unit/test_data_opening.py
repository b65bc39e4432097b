"""Which source a site's process reads from."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.data.sources import open_source
from flip_fl.settings import write_settings_file


def test_an_app_without_images_reads_a_table_whatever_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IMAGING false is said once, in config.json: a forgotten DEV_TABULAR must not fail the run at the site."""
    csv = tmp_path / "cohort.csv"
    csv.write_text("person_id,age\n1,50\n2,61\n")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path))
    for said in ({}, {"DEV_TABULAR": "false"}):
        values = {"LOCAL_DEV": "true", "FLIP_ROLE": "client", "DEV_DATAFRAME": str(csv), **said}
        write_settings_file(tmp_path / "Trust_1.env", values)
        assert len(open_source("Trust_1", imaging=False).dataframe("", "")) == 2
        with pytest.raises(ValueError, match="accession_id"):
            open_source("Trust_1").dataframe("", "")
