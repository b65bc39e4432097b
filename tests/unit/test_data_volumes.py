"""Reading DICOM and NIfTI: voxels where they were stored, places in mm, and faults that quote nothing."""

from __future__ import annotations

import contextlib
import gzip
import logging
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from flip_fl.data.volumes import Problem, Volume, VolumeError, check_volume, compression, read_volume
from tests.support.studies import CANARY, nifti_bytes, slice_file, write_frames, write_nifti, write_series, write_slice


def read(*paths: Path) -> Volume:
    return read_volume([str(path) for path in paths])


def problem(*paths: Path) -> Problem:
    """What is wrong when it is read whole. The error tells nothing else."""
    with pytest.raises(VolumeError) as caught:
        read(*paths)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert str(caught.value) == caught.value.problem.value
    return caught.value.problem


def checked(*paths: Path) -> Problem | None:
    """What the headers tell."""
    try:
        check_volume([str(path) for path in paths])
    except VolumeError as error:
        return error.problem
    return None


def place(volume: Volume, *index: float) -> list[float]:
    """The mm, RAS+, of an index of the array."""
    return [round(float(value), 6) for value in (volume.affine @ [*index, *[0] * (3 - len(index)), 1])[:3]]


def checked_or_raise(path: Path) -> None:
    check_volume([str(path)])


def compressed(path: Path, target: Path, syntax: str) -> Path:
    """``path`` in a transfer syntax of pydicom's name, as GDCM compresses it."""
    import gdcm

    target.parent.mkdir(exist_ok=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    uid = getattr(pydicom.uid, syntax)
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(uid))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    # Only the pixels are GDCM's: what it does to a header is its own.
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    data, pixels = pydicom.dcmread(path), pydicom.dcmread(target)
    data.file_meta.TransferSyntaxUID = uid
    data.PixelData = pixels.PixelData
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.save_as(target, enforce_file_format=True)
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == uid
    return target


COUNTED = np.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)


# -- DICOM: pixels and their order ------------------------------------------------------------------------------------


def test_a_series_is_slice_row_column_as_the_bytes_are(tmp_path: Path) -> None:
    """A transpose that is never undone once fed a model images lying on their side: each byte is where it was."""
    paths = write_series(tmp_path, COUNTED)
    volume = read(*reversed(paths))
    assert volume.array.dtype == np.float32
    assert volume.array.tolist() == COUNTED.tolist()
    raw = pydicom.dcmread(paths[1]).PixelData
    assert volume.array[1, 0, :].tolist() == [int.from_bytes(raw[2 * n : 2 * n + 2], "little") for n in range(4)]


def test_a_single_slice_is_row_column(tmp_path: Path) -> None:
    """A radiograph has two axes, not three of which one is 1."""
    volume = read(write_slice(tmp_path / "a.dcm", COUNTED[0], PixelSpacing=[0.5, 0.25], SliceThickness=3))
    assert volume.array.shape == (3, 4)
    assert volume.spacing == (0.5, 0.25)
    assert place(volume, 1, 0) == [0.0, -0.5, 0.0]
    assert place(volume, 0, 1) == [-0.25, 0.0, 0.0]
    assert place(volume, 0, 0, 1) == [0.0, 0.0, 3.0]


def test_slices_are_sorted_by_their_place_whatever_their_numbers_and_names_say(tmp_path: Path) -> None:
    """InstanceNumber runs from feet to head or the other way round, by device; the patient does not."""
    for number in range(12):
        write_slice(
            tmp_path / f"{(number * 5) % 12}.dcm",
            np.full((2, 2), number, "u2"),
            InstanceNumber=12 - number,
            ImagePositionPatient=[0, 0, -30.0 + 2.5 * number],
        )
    volume = read(*sorted(tmp_path.iterdir()))
    assert volume.array[:, 0, 0].tolist() == list(range(12))
    assert volume.spacing == (2.5, 1.0, 1.0)
    assert place(volume, 0, 0, 0) == [0.0, 0.0, -30.0]
    assert place(volume, 11, 0, 0) == [0.0, 0.0, -2.5]


def test_without_a_place_the_instance_number_decides_then_the_name(tmp_path: Path) -> None:
    """10 comes after 2 in both."""
    for number in range(12):
        pixels = np.full((2, 2), number, "u2")
        nowhere: dict[str, Any] = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
        write_slice(tmp_path / "numbers" / f"{12 - number}.dcm", pixels, InstanceNumber=number, **nowhere)
        write_slice(tmp_path / "names" / f"{number}.dcm", pixels, InstanceNumber=None, SliceThickness=4, **nowhere)
    for folder in ("numbers", "names"):
        volume = read(*sorted((tmp_path / folder).iterdir()))
        assert volume.array[:, 0, 0].tolist() == list(range(12))
    assert volume.affine.tolist() == np.diag([4.0, 1.0, 1.0, 1.0]).tolist()


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """PET scales every slice by itself; CT becomes Hounsfield units."""
    for number in range(2):
        write_slice(
            tmp_path / f"{number}.dcm",
            np.full((2, 2), 10, "u2"),
            ImagePositionPatient=[0, 0, number],
            RescaleSlope=number + 0.5,
            RescaleIntercept=-1024,
        )
    assert read(*tmp_path.iterdir()).array[:, 0, 0].tolist() == [-1019.0, -1009.0]


def test_signed_pixels_and_padding_bits(tmp_path: Path) -> None:
    """Negative values are no large ones."""
    pixels = np.array([[-5, 7], [300, -2000]], dtype="i2")
    assert read(write_slice(tmp_path / "a.dcm", pixels)).array.tolist() == pixels.tolist()


def test_monochrome1_is_said_and_not_inverted(tmp_path: Path) -> None:
    """What is dark and what is bright is a matter of display; the values are the device's."""
    volume = read(write_slice(tmp_path / "a.dcm", COUNTED[0], PhotometricInterpretation="MONOCHROME1"))
    assert volume.array.tolist() == COUNTED[0].tolist()
    assert volume.photometric == "MONOCHROME1"


# -- DICOM: places in the patient -------------------------------------------------------------------------------------


def test_the_affine_is_the_standards_formula_in_ras(tmp_path: Path) -> None:
    """Every voxel of an oblique series lies where PS3.3 C.7.6.2.1.1 puts it, x and y negated."""
    row = np.array([0.8, 0.6, 0.0])
    column = np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    origin = np.array([-10.0, 20.0, 30.0])
    for number in range(3):
        write_slice(
            tmp_path / f"{number}.dcm",
            COUNTED[0],
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=[float(value) for value in origin + 2.0 * number * normal],
            PixelSpacing=[0.7, 0.3],
        )
    volume = read(*tmp_path.iterdir())
    assert np.allclose(volume.spacing, (2.0, 0.7, 0.3))
    for index in np.ndindex(*volume.array.shape):
        slice_number, row_index, column_index = index
        lps = origin + 2.0 * slice_number * normal + 0.3 * column_index * row + 0.7 * row_index * column
        assert np.allclose((volume.affine @ [*index, 1])[:3], lps * [-1, -1, 1], atol=1e-5)


def test_nibabels_own_example_lies_where_nibabel_puts_it(tmp_path: Path) -> None:
    """A real Siemens slice: the same voxels in the same places as a second implementation says."""
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    other = wrapper_from_file(path)
    volume = read(Path(path))
    # nibabel's array is (row, column) in LPS+.
    assert np.allclose(volume.array, other.get_data())
    assert np.allclose(volume.affine[:, [0, 1, 3]], (np.diag([-1.0, -1, 1, 1]) @ other.affine)[:, [0, 1, 3]])


def test_a_tilted_gantry_shears_the_affine(tmp_path: Path) -> None:
    """The step from slice to slice need not be along the normal."""
    for number in range(3):
        write_slice(tmp_path / f"{number}.dcm", COUNTED[0], ImagePositionPatient=[0, 0.5 * number, 2.0 * number])
    volume = read(*tmp_path.iterdir())
    assert place(volume, 2, 0, 0) == [0.0, -1.0, 4.0]
    assert np.isclose(volume.spacing[0], np.hypot(0.5, 2.0))


def test_a_file_without_spacing_or_place_has_ones(tmp_path: Path) -> None:
    """A photograph's pixels have no size; a device's zeros are no direction."""
    bare = {"PixelSpacing": None, "SliceThickness": None, "ImageOrientationPatient": [0.0] * 6}
    volume = read(write_slice(tmp_path / "a.dcm", COUNTED[0], **bare))
    assert volume.affine.tolist() == np.eye(4).tolist()
    assert volume.spacing == (1.0, 1.0)
    volume = read(write_slice(tmp_path / "b.dcm", COUNTED[0], **bare, ImagerPixelSpacing=[0.2, 0.1]))
    assert volume.spacing == (0.2, 0.1)


# -- DICOM: what cannot be one volume ---------------------------------------------------------------------------------


def series_of(folder: Path, **second: Any) -> list[Path]:
    """Three slices, of which the second differs."""
    paths = write_series(folder, np.zeros((3, 4, 4), "u2"))
    elements = {"ImagePositionPatient": [0.0, 0.0, 1.0], "InstanceNumber": 2, **second}
    shape = elements.pop("shape", (4, 4))
    write_slice(paths[1], np.zeros(shape, "u2"), **elements)
    return paths


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"SeriesInstanceUID": "1.2.3"}, Problem.SERIES),
        ({"shape": (4, 5)}, Problem.SIZES),
        ({"PixelSpacing": [1.0, 2.0]}, Problem.SIZES),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, Problem.TILTED),
        ({"ImagePositionPatient": [0.0, 0.0, 2.0]}, Problem.SAME_PLACE),
        ({"ImagePositionPatient": [0.0, 0.0, 7.0]}, Problem.GAPS),
    ],
)
def test_files_that_are_no_volume_are_refused(second: dict[str, Any], expected: Problem, tmp_path: Path) -> None:
    """A stack of what does not belong together would be learnt from; the headers are enough to see it."""
    paths = series_of(tmp_path, **second)
    assert problem(*paths) is expected
    assert checked(*paths) is expected


def test_uneven_by_a_little_is_a_series(tmp_path: Path) -> None:
    """Positions are rounded by devices."""
    paths = series_of(tmp_path, ImagePositionPatient=[0.0, 0.0, 1.15])
    assert read(*paths).spacing[0] == 1.0
    assert checked(*paths) is None


# -- DICOM: faults ----------------------------------------------------------------------------------------------------


def _file(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MR_truncated.dcm", Problem.CUT),
        ("rtplan.dcm", Problem.NO_PIXELS),
        ("test-SR.dcm", Problem.NO_PIXELS),
        ("SC_rgb_small_odd.dcm", Problem.COLOUR),
        ("examples_palette.dcm", Problem.COLOUR),
        ("no_meta.dcm", Problem.NO_DICOM),
        ("zipMR.gz", Problem.NO_DICOM),
    ],
)
def test_real_files_that_cannot_be_read_say_why(name: str, expected: Problem) -> None:
    """pydicom's own collection of odd files; headers alone tell the same."""
    path = _file(name)
    assert problem(path) is expected
    assert checked(path) is expected


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"]
)
def test_real_files_of_every_plain_encoding_are_read(name: str) -> None:
    """Implicit and explicit, little and big endian, deflated: pydicom's own pixels, as they are."""
    path = _file(name)
    data = pydicom.dcmread(path)
    assert checked(path) is None
    volume = read(path)
    assert np.array_equal(volume.array, pydicom.pixels.apply_modality_lut(data.pixel_array, data).astype("f4"))


@pytest.mark.parametrize(
    ("syntax", "kind", "error"),
    [
        ("JPEGBaseline8Bit", "u1", 6),
        ("JPEGLosslessSV1", "u2", 0),
        ("JPEGLSLossless", "u2", 0),
        ("JPEG2000Lossless", "u2", 0),
    ],
)
def test_compressed_slices_are_read_as_those_before_compression(
    syntax: str, kind: str, error: int, tmp_path: Path
) -> None:
    """The extra brings a decoder: what archives compress is read to the last bit, lossy JPEG to a few grey values."""
    ramp = np.add.outer(np.arange(32), np.arange(24))
    volume = np.stack([ramp, 2 * ramp, 200 - ramp]).astype(kind)
    bits = volume.dtype.itemsize * 8
    plain = write_series(tmp_path / "plain", volume, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
    packed = [compressed(path, tmp_path / "packed" / path.name, syntax) for path in plain]
    assert checked(*packed) is None
    before, after = read(*plain), read(*packed)
    assert np.abs(after.array - before.array).max() <= error
    assert (after.affine.tolist(), after.spacing) == (before.affine.tolist(), before.spacing)


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_real_compressed_files_are_read(name: str) -> None:
    """pydicom's collection holds one image in several encodings."""
    assert np.array_equal(read(_file(name)).array, read(_file("MR_small.dcm")).array)


def test_a_compression_without_a_decoder_is_named(tmp_path: Path) -> None:
    """Told before any pixel is decoded, with the standard's name; of a UID that is none nothing is repeated."""
    data = slice_file(np.zeros((4, 4), "u2"), TransferSyntaxUID=pydicom.uid.HTJ2KLossless)
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    for call in (read, checked_or_raise):
        with pytest.raises(VolumeError) as caught:
            call(tmp_path / "a.dcm")
        assert (caught.value.problem, caught.value.syntax) == (Problem.NO_DECODER, "1.2.840.10008.1.2.4.201")
    assert compression(caught.value.syntax).startswith("High-Throughput JPEG 2000")
    assert compression(f"1.2.{CANARY}") == "one that the standard does not know"


def test_a_damaged_compressed_slice_is_an_error_and_no_value_is_printed(tmp_path: Path) -> None:
    """The decoders write to the process's stderr: libjpeg its fixed sentences, GDCM nothing."""
    path = write_slice(tmp_path / "a.dcm", np.arange(64 * 64, dtype="u2").reshape(64, 64))
    broken = compressed(path, tmp_path / "b.dcm", "JPEGLosslessSV1")
    raw = bytearray(broken.read_bytes())
    raw[-400:-40] = b"\xff\x00" * 180
    broken.write_bytes(bytes(raw))
    code = f"from tests.unit.test_data_volumes import *; print(problem(Path({str(broken)!r})).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() in ("DAMAGED", "CUT"), done.stderr
    assert all(line.startswith("Corrupt JPEG data: ") for line in done.stderr.splitlines())
    assert CANARY not in done.stderr


# -- DICOM: several frames in a file ----------------------------------------------------------------------------------


def test_a_multi_frame_file_is_the_volume_that_its_frames_would_be(tmp_path: Path) -> None:
    """Place, spacing and rescale from the functional groups, whatever the order of the frames: array and affine are
    those of the same slices as files, and so they are compressed.
    """
    rng = np.random.default_rng(3)
    volume = rng.integers(0, 4000, (5, 6, 4)).astype("u2")
    axes = [0.0, 0.8, 0.6, 1.0, 0.0, 0.0]
    normal = np.cross(axes[:3], axes[3:])
    files = []
    for number, pixels in enumerate(volume):
        where = {
            "ImagePositionPatient": [round(v, 9) for v in 10 + 2.5 * number * normal],
            "ImageOrientationPatient": axes,
        }
        more = {"PixelSpacing": [0.5, 0.75], "RescaleSlope": 1 + number, "RescaleIntercept": -number}
        files.append(write_slice(tmp_path / "files" / f"{number}.dcm", pixels, **where, **more))
    order = [3, 0, 4, 1, 2]
    frames = write_frames(tmp_path / "frames.dcm", [pydicom.dcmread(files[number]) for number in order])
    one, other = read(frames), read(*files)
    assert checked(frames) is None
    assert np.array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)
    assert one.spacing == pytest.approx(other.spacing)
    packed = compressed(frames, tmp_path / "packed.dcm", "JPEGLosslessSV1")
    assert checked(packed) is None
    assert np.array_equal(read(packed).array, other.array)


def test_headers_of_many_frames_are_checked_without_the_pixels(tmp_path: Path) -> None:
    """Functional groups are larger than what is read of other values; a frame too few is damage."""
    slices = [
        slice_file(np.full((4, 4), number, "u2"), ImagePositionPatient=[0.0, 0.0, float(number)])
        for number in range(600)
    ]
    path = write_frames(tmp_path / "many.dcm", slices)
    assert checked(path) is None
    assert read(path).array[:, 0, 0].tolist() == list(range(600))
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 599
    data.save_as(path)
    assert checked(path) is Problem.DAMAGED
    assert problem(path) is Problem.DAMAGED


def test_frames_at_one_place_are_no_volume(tmp_path: Path) -> None:
    """A time series in one file must not become a volume in silence."""
    assert (
        problem(write_frames(tmp_path / "a.dcm", [slice_file(COUNTED[0]), slice_file(COUNTED[1])]))
        is Problem.SAME_PLACE
    )


def test_a_dose_is_in_its_own_unit_and_place() -> None:
    """pydicom's own dose: stored value × DoseGridScaling, frames where the offsets put them."""
    path = _file("rtdose.dcm")
    data = pydicom.dcmread(path)
    assert checked(path) is None
    volume = read(path)
    expected = (data.pixel_array * float(data.DoseGridScaling)).astype("f4")
    steps = np.diff([float(offset) for offset in data.GridFrameOffsetVector])
    assert np.array_equal(volume.array, expected if steps[0] > 0 else expected[::-1])
    assert volume.spacing == pytest.approx((abs(steps[0]), *map(float, data.PixelSpacing)))
    x, y, z = map(float, data.ImagePositionPatient)
    assert place(volume, 0, 0, 0) == pytest.approx([-x, -y, z if steps[0] > 0 else z + steps.sum()])


def test_frames_without_a_place_keep_their_order(tmp_path: Path) -> None:
    """Of a plain multi-frame file the first frame's place is not every frame's."""
    data = slice_file(COUNTED[0], NumberOfFrames=2, PixelData=COUNTED.tobytes(), SliceThickness=3.0)
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = read(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, COUNTED)
    assert volume.spacing == (3.0, 1.0, 1.0)


def test_run_length_encoding_needs_nothing_installed() -> None:
    """pydicom decodes it by itself."""
    assert np.array_equal(read(_file("MR_small_RLE.dcm")).array, read(_file("MR_small.dcm")).array)


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text(f"{CANARY} is not an image\n" * 50)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def noise(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[160:600] = np.random.default_rng(0).bytes(440)
    path.write_bytes(raw)


DICOM_FAULTS: list[tuple[Callable[[Path], None], set[Problem | None]]] = [
    (gone, {Problem.GONE}),
    (empty, {Problem.EMPTY}),
    (text, {Problem.NO_DICOM}),
    (half, {Problem.CUT}),
    (a_folder, {Problem.NOT_OPENED}),
    (noise, {Problem.DAMAGED, Problem.NO_PIXELS, Problem.CUT, Problem.NO_DECODER}),
]


@pytest.mark.parametrize(("damage", "expected"), DICOM_FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_dicom_file_says_what_kind_of_damage(
    damage: Callable[[Path], None], expected: set[Problem], tmp_path: Path
) -> None:
    """In a series, too: one bad slice of three."""
    paths = write_series(tmp_path / CANARY, np.zeros((3, 16, 16), "u2"))
    damage(paths[1])
    assert problem(*paths) in expected
    assert checked(*paths) in expected


def test_every_truncation_of_a_dicom_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """A pull that was cut anywhere is neither a crash of another kind nor an image with less in it."""
    whole = write_slice(tmp_path / "a.dcm", np.arange(64, dtype="u2").reshape(8, 8)).read_bytes()
    cut = tmp_path / "b.dcm"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        assert problem(cut) in {Problem.EMPTY, Problem.NO_DICOM, Problem.CUT, Problem.DAMAGED, Problem.NO_PIXELS}
        assert checked(cut) is not None


def test_bits_that_changed_are_never_another_kind_of_error(tmp_path: Path) -> None:
    """Whatever a broken disk makes of a header: a volume, or an error of ours; the check agrees where it objects."""
    whole = bytearray(write_slice(tmp_path / "a.dcm", np.zeros((4, 4), "u2")).read_bytes())
    dice = np.random.default_rng(1)
    broken = tmp_path / "b.dcm"
    failed = 0
    for _ in range(300):
        raw = bytearray(whole)
        for at in dice.integers(132, len(raw), 3):
            raw[at] = int(dice.integers(256))
        broken.write_bytes(raw)
        objected = checked(broken)
        try:
            read(broken)
        except VolumeError:
            failed += 1
        else:
            assert objected is None
    assert 10 < failed < 300


def test_the_libraries_say_nothing_while_they_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """pydicom and nibabel warn with the values they dislike, and those are a patient's."""
    data = slice_file(np.zeros((4, 4), "u2"))
    raw_path = tmp_path / f"{CANARY}.dcm"
    data.save_as(raw_path, enforce_file_format=True)
    # The same length, and no valid decimal string, unique identifier or person's name.
    raw = raw_path.read_bytes().replace(b"1.2.826.0.1.3680043.8.498.1", b"Zorkmid\\\xff\xfeabc!.04..8.498.1")
    raw_path.write_bytes(raw)
    strange = write_nifti(tmp_path / f"{CANARY}.nii", np.zeros((2, 2, 2), "i2"), zooms=(-1.0, 1.0, 1.0))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(raw[:-40])
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for path in (raw_path, strange, cut):
            checked(path)
            with contextlib.suppress(VolumeError):
                read(path)
    assert said == []
    assert [record for record in caplog.records if record.name.startswith(("pydicom", "nibabel"))] == []
    assert capfd.readouterr() == ("", "")


def test_warnings_of_others_are_as_before_even_with_many_readers(tmp_path: Path) -> None:
    """Filters of warnings are the process's: readers in many threads must leave them as they found them."""
    path = str(write_slice(tmp_path / "a.dcm", np.zeros((4, 4), "u2")))
    before = list(warnings.filters)
    pydicom_logger = logging.getLogger("pydicom")
    threads = [threading.Thread(target=lambda: [read_volume([path]) for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert not pydicom_logger.disabled


# -- NIfTI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_nifti_file_is_i_j_k_as_the_bytes_are(suffix: str, kind: str, order: str, tmp_path: Path) -> None:
    """The first index runs fastest in the file, and is the first of the array: no transpose, no flip."""
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(kind)
    path = write_nifti(tmp_path / f"a{suffix}", voxels, order=order)
    volume = read(path)
    assert volume.array.dtype == np.float32
    assert volume.array.tolist() == voxels.tolist()
    raw = (gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())[352:]
    stored = np.frombuffer(raw, dtype=f"{order}{kind}")
    assert [volume.array[n % 2, n // 2 % 3, n // 6] for n in range(24)] == stored.tolist()
    assert checked(path) is None


def test_scaling_spacing_and_place_are_the_files(tmp_path: Path) -> None:
    """scl_slope and scl_inter are applied, zooms are mm, the sform is the affine: no axis is turned."""
    affine = np.array([[-2.0, 0, 0, 90], [0, 0, 3.0, -126], [0, -1.5, 0, -72], [0, 0, 0, 1]])
    voxels = np.arange(24, dtype="i2").reshape(2, 3, 4)
    path = write_nifti(tmp_path / "a.nii.gz", voxels, slope=0.5, inter=-1000, zooms=(2, 1.5, 3), affine=affine)
    volume = read(path)
    assert volume.array.tolist() == (voxels * 0.5 - 1000).tolist()
    assert volume.spacing == (2.0, 1.5, 3.0)
    assert volume.affine.tolist() == affine.tolist()


def test_four_dimensions_and_two_stay_as_they_are(tmp_path: Path) -> None:
    """Time is the last axis; spacing is that of the axes in space."""
    voxels = np.arange(2 * 3 * 4 * 5, dtype="i2").reshape(2, 3, 4, 5)
    volume = read(write_nifti(tmp_path / "a.nii", voxels, zooms=(1, 2, 3, 0.5)))
    assert volume.array.tolist() == voxels.tolist()
    assert volume.spacing == (1.0, 2.0, 3.0)
    volume = read(write_nifti(tmp_path / "b.nii", voxels[..., 0, 0], zooms=(1, 2)))
    assert volume.array.shape == (2, 3)
    assert volume.spacing == (1.0, 2.0)


def test_other_units_become_millimetres(tmp_path: Path) -> None:
    """xyzt_units 3 is microns: what says mm must be mm."""
    affine = np.diag([500.0, 500.0, 500.0, 1.0])
    path = write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), "i2"), zooms=(500, 500, 500), affine=affine, units=3)
    volume = read(path)
    assert np.allclose(volume.spacing, 0.5)
    assert np.allclose(volume.affine, np.diag([0.5, 0.5, 0.5, 1]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_damaged_nifti_file_says_what_kind_of_damage(suffix: str, tmp_path: Path) -> None:
    """Missing, empty, text, cut: by the headers already, compressed or not."""
    noise_voxels = np.random.default_rng(0).integers(0, 1000, (16, 16, 16)).astype("i2")
    for damage, expected in [
        (gone, {Problem.GONE}),
        (empty, {Problem.EMPTY}),
        (text, {Problem.NO_NIFTI}),
        (half, {Problem.CUT}),
        (a_folder, {Problem.NOT_OPENED}),
    ]:
        path = write_nifti(tmp_path / damage.__name__ / f"{CANARY}{suffix}", noise_voxels)
        damage(path)
        assert problem(path) in expected
        assert checked(path) in expected


def test_every_truncation_of_a_nifti_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """Of a compressed one the last bytes say whether all is there, and what its checksum must be."""
    voxels = np.random.default_rng(0).integers(0, 1000, (4, 4, 4)).astype("i2")
    for suffix in (".nii", ".nii.gz"):
        whole = write_nifti(tmp_path / f"a{suffix}", voxels).read_bytes()
        cut = tmp_path / f"b{suffix}"
        for length in [*range(0, len(whole) - 9, 5), *range(len(whole) - 9, len(whole))]:
            cut.write_bytes(whole[:length])
            assert problem(cut) in {Problem.EMPTY, Problem.NO_NIFTI, Problem.CUT}
            assert checked(cut) in {Problem.EMPTY, Problem.NO_NIFTI, Problem.CUT}


def test_bits_that_changed_inside_compressed_voxels_are_damage(tmp_path: Path) -> None:
    """Decompression may well succeed with other voxels: the checksum must be looked at before they are learnt from."""
    voxels = np.random.default_rng(0).integers(0, 1000, (12, 12, 12)).astype("i2")
    path = write_nifti(tmp_path / "a.nii.gz", voxels)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path.write_bytes(raw)
    assert problem(path) is Problem.DAMAGED


def test_a_nifti_file_compressed_in_several_members_is_whole(tmp_path: Path) -> None:
    """Parallel compressors write several; the length at the end is then only the last one's."""
    raw = nifti_bytes(np.arange(64, dtype="i2").reshape(4, 4, 4))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(raw[:200]) + gzip.compress(raw[200:]))
    assert checked(path) is None
    assert read(path).array[3, 3, 3] == 63


def test_a_header_that_promises_terabytes_asks_for_no_memory(tmp_path: Path) -> None:
    """A corrupt size must not take the machine down."""
    raw = bytearray(nifti_bytes(np.zeros((2, 2, 2), "i2")))
    raw[40:48] = np.array([3, 32000, 32000, 32000], dtype="<i2").tobytes()
    for name, content in (("a.nii", bytes(raw)), ("a.nii.gz", gzip.compress(bytes(raw)))):
        (tmp_path / name).write_bytes(content)
        assert problem(tmp_path / name) is Problem.CUT
        assert checked(tmp_path / name) is Problem.CUT


def test_colours_and_five_dimensions_are_refused(tmp_path: Path) -> None:
    """RGB voxels are no numbers; vectors are no volume."""
    raw = bytearray(nifti_bytes(np.zeros((2, 2, 2), "u1")))
    raw[70:74] = np.array([128, 24], dtype="<i2").tobytes()
    (tmp_path / "rgb.nii").write_bytes(bytes(raw) + b"\0" * 100)
    assert problem(tmp_path / "rgb.nii") is Problem.KIND
    path = write_nifti(tmp_path / "five.nii", np.zeros((2, 2, 2, 1, 3), "i2"))
    assert problem(path) is Problem.KIND
    assert checked(path) is Problem.KIND


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """Another owner's file: nothing is wrong with it but its mode."""
    script = """
import os, sys
from flip_fl.data.volumes import VolumeError, read_volume
for path in sys.argv[1:]:
    # Everything is imported then: who is nobody may not read that either.
    read_volume([path])
    os.chmod(path, 0)
if os.geteuid() == 0:
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        read_volume([path])
    except VolumeError as error:
        print(error.problem.name)
"""
    folder = Path(f"/var/tmp/{tmp_path.name}-{CANARY}")
    folder.mkdir()
    try:
        paths = [write_nifti(folder / "a.nii", COUNTED), write_slice(folder / "a.dcm", COUNTED[0])]
        run = subprocess.run(
            [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stdout.split() == ["NOT_OPENED", "NOT_OPENED"]
        assert CANARY not in run.stderr
    finally:
        shutil.rmtree(folder)


def test_without_the_libraries_the_error_names_the_pip_install(tmp_path: Path) -> None:
    """pydicom and nibabel are an extra."""
    script = """
import sys
sys.modules["pydicom"] = sys.modules["nibabel"] = None
from flip_fl.data.volumes import read_volume
from flip_fl.errors import FlipError
for path in sys.argv[1:]:
    try:
        read_volume([path])
    except FlipError as error:
        print(error.code, error.fix)
"""
    paths = [write_nifti(tmp_path / "a.nii", COUNTED), write_slice(tmp_path / "a.dcm", COUNTED[0])]
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.splitlines() == ["E0509 pip install 'flip_fl[imaging]'"] * 2
