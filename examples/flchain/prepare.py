"""Writes the cohort: the free light chain study that comes with scikit-survival, 7,874 people of Olmsted County."""

from pathlib import Path


def prepare(out_dir) -> None:
    """Write ``cohort.csv``: person_id, sex, age in years, kappa and lambda light chains and creatinine in mg/dL (not
    known of everybody), days until death (died 1) or until the study ended (died 0). By person_id, as QUERY orders it.
    """
    from sksurv.datasets import load_flchain

    known, outcome = load_flchain()
    cohort = known[["sex", "age", "kappa", "lambda", "creatinine"]].reset_index(drop=True)
    cohort.insert(0, "person_id", range(1, len(cohort) + 1))
    cohort["days"] = outcome["futime"].astype(int)
    cohort["died"] = outcome["death"].astype(int)
    cohort.to_csv(Path(out_dir) / "cohort.csv", index=False)
