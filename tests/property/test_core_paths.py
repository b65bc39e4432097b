"""Paths that others give stay inside their folder, whatever they are made of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flip_fl.data.paths import Root, check_accession, check_relative, inside
from flip_fl.errors import FlipError

parts = st.sampled_from(["..", ".", "a", "link", "loop", "out", "", "/", "a/../..", "x.pt", "~", "\\..", "…"])
paths = st.lists(parts, max_size=6).map("/".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
quiet = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a link to itself, a link out of it, and a link to a file beside it."""
    folder = tmp_path / "root"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to("..")
    return folder


@quiet
@given(relative=paths)
@example(relative="/etc/passwd")
@example(relative="loop/loop/out/secret")
@example(relative="a/../../secret")
def test_what_is_given_back_lies_inside(root: Path, relative: str) -> None:
    """`../`, absolute paths and links are followed before the check, and what is refused is never given back."""
    found, refusal = _outcome(lambda: inside(root, relative))
    if refusal is not None:
        assert refusal.code == "E0704"
        return
    real = os.path.realpath(found)
    assert real == str(found)
    assert os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root)


@pytest.mark.parametrize("relative", ["a", "a/x.pt", "a/../a", ".", "loop/a/x.pt", "…"])
def test_what_lies_inside_is_given_back(root: Path, relative: str) -> None:
    """A check that refused everything would be safe, too."""
    assert inside(root, relative) == Path(os.path.realpath(root / relative))


@pytest.mark.parametrize("relative", ["..", "../secret", "link", "out", "out/secret", "loop/../../secret", "/etc"])
def test_what_leads_out_is_refused(root: Path, relative: str) -> None:
    """Another project's checkpoint was once one `../` away."""
    with pytest.raises(FlipError, match="leads out of"):
        inside(root, relative)
    with pytest.raises(FlipError) as caught:
        inside(root, relative, called="the folder of a study")
    assert "secret" not in caught.value.text()


def test_a_folder_with_the_roots_name_as_its_beginning_is_outside(tmp_path: Path) -> None:
    """`/data/images-old` is not in `/data/images`."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images-old").mkdir()
    with pytest.raises(FlipError):
        inside(tmp_path / "images", "../images-old")


@quiet
@given(relatives=st.lists(paths, max_size=4))
def test_a_root_that_is_asked_often_says_the_same(root: Path, relatives: list[str]) -> None:
    """What is remembered of the root, and what is seen at a glance, changes no answer."""
    remembered = Root(root)
    for relative in relatives:
        for path in (relative, f"{root}/{relative}"):
            found, refusal = _outcome(lambda path=path: remembered.inside(path))
            again, likewise = _outcome(lambda path=path: inside(root, path))
            assert (found, type(refusal)) == (again, type(likewise))


def test_a_root_that_leads_elsewhere_is_found_there(tmp_path: Path) -> None:
    """Storage that is mounted anew while a job runs is no reason to refuse its studies."""
    for name in ("old", "new"):
        (tmp_path / name / "study").mkdir(parents=True)
    link = tmp_path / "images"
    link.symlink_to("old")
    root = Root(link)
    assert root.inside(str(link / "study")) == tmp_path / "old" / "study"
    link.unlink()
    link.symlink_to("new")
    assert root.inside(str(link / "study")) == tmp_path / "new" / "study"
    with pytest.raises(FlipError):
        root.inside(str(tmp_path / "old" / "study"))


@quiet
@given(accession=texts)
@example(accession="..")
@example(accession="a\0b")
@example(accession="C:")
def test_an_accession_number_that_passes_is_the_name_of_one_folder(tmp_path: Path, accession: str) -> None:
    """Whatever passes can be a folder directly below the images, and nothing else."""
    _, refusal = _outcome(lambda: check_accession(accession))
    if refusal is not None:
        assert refusal.code == "E0903"
        assert len(accession.strip()) < 4 or accession not in refusal.text()
        return
    assert inside(tmp_path, accession).parent == tmp_path.resolve()
    assert "/" not in accession
    assert "\\" not in accession


@pytest.mark.parametrize("accession", ["0007", "ACC-1.2", "RÖ 42", "a.b", "1_2", "(1)"])
def test_ordinary_accession_numbers_pass(accession: str) -> None:
    """Hospitals number their studies in many ways."""
    check_accession(accession)


@quiet
@given(file=texts | paths)
def test_a_file_that_passes_stays_in_the_upload_folder_on_any_system(tmp_path: Path, file: str) -> None:
    """The service may run on another system than this one."""
    _, refusal = _outcome(lambda: check_relative(file, root="the upload folder", called="files[0]"))
    if refusal is not None:
        assert refusal.code == "E0704"
        return
    joined = os.path.normpath(os.path.join("/upload", file))
    assert joined == "/upload" or joined.startswith("/upload/")
    assert ".." not in file.replace("\\", "/").split("/")


def _outcome(call: Callable[[], Any]) -> tuple[Any, FlipError | None]:
    try:
        return call(), None
    except FlipError as error:
        return None, error
