"""Writes the cohort: 1,797 handwritten digits of 8 by 8 pixels, which come with scikit-learn."""

from pathlib import Path


def prepare(out_dir) -> None:
    """Write ``cohort.csv``: person_id, the pixels with values from 0 to 16, the digit."""
    from sklearn.datasets import load_digits

    data = load_digits(as_frame=True)
    cohort = data.data.astype(int)
    cohort.insert(0, "person_id", range(1, len(cohort) + 1))
    cohort["digit"] = data.target
    cohort.to_csv(Path(out_dir) / "cohort.csv", index=False)
