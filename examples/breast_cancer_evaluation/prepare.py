"""Writes the cohort: the Wisconsin diagnostic data that comes with scikit-learn, 569 patients with a breast mass."""

from pathlib import Path


def prepare(out_dir) -> None:
    """Write ``cohort.csv``: person_id, thirty measurements, malignant (1) or benign (0)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    cohort = data.data.rename(columns=lambda name: name.replace(" ", "_"))
    cohort.insert(0, "person_id", range(1, len(cohort) + 1))
    # scikit-learn counts malignant as 0
    cohort["malignant"] = 1 - data.target
    cohort.to_csv(Path(out_dir) / "cohort.csv", index=False)
