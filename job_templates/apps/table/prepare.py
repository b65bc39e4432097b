"""Writes the cohort of a simulated run: 569 patients with a breast mass, which come with scikit-learn."""

from pathlib import Path


def prepare(out_dir) -> None:
    """Write ``cohort.csv``: person_id, thirty measurements, malignant (1) or benign (0).

    In a real federation each site asks its own trust for the cohort, and this file is not used.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    cohort = data.data.rename(columns=lambda name: name.replace(" ", "_"))
    cohort.insert(0, "person_id", range(1, len(cohort) + 1))
    cohort["malignant"] = 1 - data.target
    cohort.to_csv(Path(out_dir) / "cohort.csv", index=False)
