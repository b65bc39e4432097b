"""Writes the studies of a simulated run: 600 handwritten digits, which come with scikit-learn, as NIfTI files."""

from pathlib import Path

STUDIES = 600
STUDIES_A_PERSON = 3


def prepare(out_dir) -> None:
    """Write ``cohort.csv`` (person_id, accession_id, digit) and ``images/<accession_id>/input_<accession_id>.nii.gz``.

    Who wrote which digit is not known: three in a row are one made-up person's. In a real federation each site asks its
    own trust for cohort and studies, and this file is not used.
    """
    import nibabel
    import numpy as np
    import pandas as pd
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    for number, (image, digit) in enumerate(zip(digits.images[:STUDIES], digits.target, strict=False)):
        accession = f"{number:06d}"
        folder = Path(out_dir) / "images" / accession
        folder.mkdir(parents=True)
        volume = nibabel.Nifti1Image(image[:, :, None].astype(np.int16), np.eye(4))
        nibabel.save(volume, folder / f"input_{accession}.nii.gz")
        rows.append({"person_id": number // STUDIES_A_PERSON, "accession_id": accession, "digit": int(digit)})
    pd.DataFrame(rows).to_csv(Path(out_dir) / "cohort.csv", index=False)
