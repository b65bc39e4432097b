"""Writes the cohort: the diabetes data that come with scikit-learn, 442 patients of B. Efron et al. (2004)."""

from pathlib import Path


def prepare(out_dir) -> None:
    """Write ``cohort.csv``: person_id, ten measurements at the start, progression after one year."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(as_frame=True, scaled=False)
    cohort = data.data.copy()
    cohort.insert(0, "person_id", range(1, len(cohort) + 1))
    cohort["progression"] = data.target
    cohort.to_csv(Path(out_dir) / "cohort.csv", index=False)
