"""Writes the studies: scikit-learn's handwritten digits, each as a DICOM study with an accession number."""

from pathlib import Path

IMAGES_A_PERSON = 3


def prepare(out_dir) -> None:
    """Write ``cohort.csv`` (person_id, accession_id, digit) and ``images/<accession_id>/DICOM/1.dcm``.

    Who wrote which digit is not known of these data: three in a row are one made-up person's.
    """
    import pandas as pd
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    for number, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True), start=1):
        person, accession = 1 + (number - 1) // IMAGES_A_PERSON, f"{number:06d}"
        folder = Path(out_dir) / "images" / accession / "DICOM"
        folder.mkdir(parents=True)
        write_slice(folder / "1.dcm", image, accession, person)
        rows.append({"person_id": person, "accession_id": accession, "digit": int(digit)})
    pd.DataFrame(rows).to_csv(Path(out_dir) / "cohort.csv", index=False)


def write_slice(path, image, accession, person) -> None:
    """One secondary capture image of 8 × 8 pixels with values from 0 to 16."""
    import numpy as np
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    # The same data give the same studies, whenever they are written.
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["digits", "image", accession])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_ = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID = meta.MediaStorageSOPClassUID
    slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    slice_.StudyInstanceUID = generate_uid(entropy_srcs=["digits", "study", accession])
    slice_.SeriesInstanceUID = generate_uid(entropy_srcs=["digits", "series", accession])
    slice_.AccessionNumber, slice_.PatientID = accession, str(person)
    slice_.Modality, slice_.InstanceNumber = "OT", 1
    slice_.Rows, slice_.Columns = image.shape
    slice_.PixelSpacing, slice_.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    slice_.ImagePositionPatient = [0, 0, 0]
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 8, 8, 7
    slice_.SamplesPerPixel, slice_.PixelRepresentation = 1, 0
    slice_.PhotometricInterpretation = "MONOCHROME2"
    slice_.PixelData = image.astype(np.uint8).tobytes()
    slice_.save_as(path, enforce_file_format=True)
