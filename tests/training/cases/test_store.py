"""Prepared cases: right place in the world, made once, remade when damaged or changed, bad cases named."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases import store
from cardiacldm_training.cases.readers.files import CaseFiles
from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.cases.store import PreparedCase, is_complete, prepare, prepare_case
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume
from tests.support.training import write_case, write_cases


@pytest.fixture
def case(tmp_path: Path) -> CaseFiles:
    write_case(tmp_path / "data" / "case_0000", seed=5)
    return find_cases(tmp_path / "data")[0]


def test_labels_stay_where_they_are_in_the_world(case: CaseFiles, tmp_path: Path) -> None:
    prepared = prepare_case(case, tmp_path / "cache", 5.0)
    source = read_volume(case.labels)
    origin = source.grid.bounds_ras().mean(0) - 5.0 * (np.array(prepared.labels.shape) - 1) / 2
    for structure in anatomy.STRUCTURES:
        wanted = np.argwhere(source.array == structure.value).mean(0) @ source.affine[:3, :3].T + source.affine[:3, 3]
        found = np.argwhere(prepared.labels == structure.value).mean(0) * 5.0 + origin
        assert np.abs(found - wanted).max() < 1.0, structure.name
        assert (prepared.labels[tuple(prepared.points[structure.value - 1].T)] == structure.value).all()


def test_what_is_stored(case: CaseFiles, tmp_path: Path) -> None:
    prepared = prepare_case(case, tmp_path / "cache", 5.0)
    assert prepared.image.dtype == np.int16
    assert prepared.labels.dtype == np.uint8
    assert isinstance(prepared.image, np.memmap)
    assert prepared.image.min() >= AIR_HU
    assert prepared.points.shape == (8, store.POINTS, 3)


def test_an_entry_is_made_once_and_remade_when_damaged(case: CaseFiles, tmp_path: Path) -> None:
    first = prepare_case(case, tmp_path / "cache", 5.0)
    record = first.folder / store.RECORD
    made, wanted = record.stat().st_mtime_ns, first.image.copy()
    assert prepare_case(case, tmp_path / "cache", 5.0) == first
    assert record.stat().st_mtime_ns == made
    with (first.folder / "image.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert not is_complete(first.folder)
    again = prepare_case(case, tmp_path / "cache", 5.0)
    assert np.array_equal(again.image, wanted)
    (again.folder / "points.npy").unlink()
    assert is_complete(prepare_case(case, tmp_path / "cache", 5.0).folder)


def test_leftovers_of_a_killed_preparation_do_no_harm(case: CaseFiles, tmp_path: Path) -> None:
    first = prepare_case(case, tmp_path / "cache", 5.0)
    shutil.copytree(first.folder, tmp_path / "cache" / ".part-dead")
    (first.folder / store.RECORD).unlink()
    assert is_complete(prepare_case(case, tmp_path / "cache", 5.0).folder)


def test_leftovers_of_processes_that_have_ended_are_removed(case: CaseFiles, tmp_path: Path) -> None:
    for name, age in ((".part-old", 60.0), (".part-new", 0.0)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        os.utime(tmp_path / "cache" / name, (time.time() - age,) * 2)
    prepare([(case, tmp_path / "cache")], 5.0)
    assert [path.name for path in (tmp_path / "cache").glob(".part-*")] == [".part-new"]


def test_other_content_or_spacing_is_another_entry(case: CaseFiles, tmp_path: Path) -> None:
    entries = [prepare_case(case, tmp_path / "cache", spacing).folder for spacing in (5.0, 6.0)]
    image = read_volume(case.image)
    write_volume(Volume(image.array + np.int16(1), image.affine), case.image)
    entries.append(prepare_case(case, tmp_path / "cache", 5.0).folder)
    assert len(set(entries)) == 3


def test_bad_cases_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 5)
    labels = read_volume(data / "case_0001" / "labels.nii.gz")
    write_volume(Volume(labels.array[:-1].copy(), labels.affine), data / "case_0001" / "labels.nii.gz")
    write_volume(Volume(labels.array + np.uint8(4), labels.affine), data / "case_0002" / "labels.nii.gz")
    write_volume(Volume(labels.array * np.uint8(0), labels.affine), data / "case_0003" / "labels.nii.gz")
    scan = data / "case_0004" / "ct.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    reports: list[tuple[int, int]] = []
    prepared = prepare(
        [(files, tmp_path / "cache") for files in find_cases(data)],
        6.0,
        progress=lambda *n: reports.append(n),
    )
    assert [case.name for case in prepared.cases] == ["case_0000"]
    reasons = dict(prepared.skipped)
    assert set(reasons) == {f"case_000{n}" for n in range(1, 5)}
    assert len(set(reasons.values())) == 4
    assert "12" in reasons["case_0002"]
    assert reports[-1] == (5, 5)


def test_images_that_are_no_ct_are_named(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 3)
    for name, change in {"case_0000": lambda hu: (hu + 1000.0) / 3000.0, "case_0002": lambda hu: hu // 8 + 128}.items():
        image = read_volume(data / name / "ct.nii.gz")
        write_volume(Volume(change(image.array), image.affine), data / name / "ct.nii.gz")
    prepared = prepare([(files, tmp_path / "cache") for files in find_cases(data)], 6.0)
    assert [case.name for case in prepared.cases] == ["case_0001"]
    reasons = dict(prepared.skipped)
    assert set(reasons) == {"case_0000", "case_0002"}
    assert all("Hounsfield" in reason for reason in reasons.values())


def test_several_processes_give_the_same_cases(tmp_path: Path) -> None:
    cases = find_cases(write_cases(tmp_path / "data", 3))
    one = prepare([(files, tmp_path / "one") for files in cases], 6.0)
    two = prepare([(files, tmp_path / "two") for files in cases], 6.0, workers=2)
    assert one.digest == two.digest
    for a, b in zip(one.cases, two.cases, strict=True):
        assert json.loads((a.folder / store.RECORD).read_text()) == json.loads((b.folder / store.RECORD).read_text())


def test_an_unusable_cache_is_named(case: CaseFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    prepared = prepare([(case, tmp_path / "cache")], 6.0)
    assert prepared.cases == []
    assert "cache" in prepared.skipped[0][1]


def test_the_digest_tells_sets_apart(tmp_path: Path) -> None:
    cases = [PreparedCase(f"c{n}", tmp_path, f"key{n}", 6.0) for n in range(3)]
    digests = {store.Prepared(part, []).digest for part in (cases, cases[:2], cases[1:], cases[::-1])}
    assert len(digests) == 4
