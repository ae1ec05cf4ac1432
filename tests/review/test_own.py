"""The package's labels of the scans of a review: made once, kept, left out where there is nothing to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.packages import store
from CardiacLDMLib.packages.store import ModelPackage, open_package
from CardiacLDMLib.review import own
from CardiacLDMLib.review.sources import ReviewCase, cases_of_folder
from CardiacLDMLib.review.worklist import open_worklist
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package
from tests.support.review import pairs_folder, results_folder

AFFINE = np.array([[4.0, 0, 0, -90], [0, 4, 0, -90], [0, 0, 4, -90], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return open_package(write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom"))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return phantom(Grid((45, 45, 45), AFFINE))[0]


def never() -> NoReturn:
    raise AssertionError("the package was loaded")


def test_a_scan_is_segmented_once(package: ModelPackage, scan: Volume, tmp_path: Path) -> None:
    made = own.own_labels(scan, package, lambda: Segmenter(package, "cpu"), tmp_path)
    assert made is not None
    truth = phantom(scan.grid)[1].array
    assert (made.array == truth)[made.array > 0].mean() > 0.9
    assert set(np.unique(made.array)) == set(range(9))
    kept = own.own_labels(scan, package, never, tmp_path)
    assert kept is not None
    assert (kept.array == made.array).all()
    other = Volume(scan.array + np.int16(1), scan.affine)
    with pytest.raises(AssertionError):
        own.own_labels(other, package, never, tmp_path)
    (path,) = (tmp_path / own.FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:50])  # damaged: made again
    again = own.own_labels(scan, package, lambda: Segmenter(package, "cpu"), tmp_path)
    assert again is not None
    assert (again.array == made.array).all()


def test_a_folder_that_cannot_be_written_to_keeps_none(package: ModelPackage, scan: Volume, tmp_path: Path) -> None:
    (tmp_path / "review").write_text("in the way")
    assert own.own_labels(scan, package, lambda: Segmenter(package, "cpu"), tmp_path / "review") is not None


def test_there_is_nothing_to_compare_without_a_scan_or_other_labels(tmp_path: Path) -> None:
    results = cases_of_folder(results_folder(tmp_path / "results", tmp_path))
    assert own.can_be_compared(results[0], results[0].labels, "another 1.0")
    assert not own.can_be_compared(results[0], results[0].labels, "hearts 1.1")  # made them
    assert own.can_be_compared(results[0], tmp_path / "corrected.nii.gz", "hearts 1.1")
    assert not own.can_be_compared(ReviewCase("a", tmp_path / "labels.nii.gz"), tmp_path / "labels.nii.gz", "")
    assert not own.can_be_compared(ReviewCase("a", None, tmp_path / "ct.nii.gz"), None, "")


def test_the_package_is_the_one_that_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = own.installed_package()
    assert found is not None
    assert found.folder.name == store.DEFAULT_PACKAGE
    assert own.name_of(found) == f"{found.manifest.name} {found.manifest.version}"
    monkeypatch.setattr(store, "shipped_packages_dir", lambda: tmp_path)
    monkeypatch.setattr(store, "user_packages_dir", lambda: tmp_path)
    assert own.installed_package() is None


def test_findings_of_a_comparison_are_not_replaced_by_others(tmp_path: Path) -> None:
    cases: Any = open_worklist(pairs_folder(tmp_path), "Ann")
    plain = cases.findings("pair_0002")
    assert not cases.is_compared("pair_0002", "f" * 64)
    cases.keep("pair_0002", plain[:1], package="f" * 64)
    cases.keep("pair_0002", plain)
    assert cases.is_compared("pair_0002", "f" * 64)
    again = open_worklist(tmp_path, "Ann")
    assert again.is_compared("pair_0002", "f" * 64)
    assert not again.is_compared("pair_0002", "e" * 64)
    assert again.known_findings("pair_0002") == plain[:1]
