"""Several acquisitions, phases or copies under one series."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.cases import Case, read_case
from tests.support.cases import hu_values, only_case, refusal
from tests.support.dicom import write_series

SHAPE = (12, 10, 9)
Change = Callable[[FileDataset, int], None]


def mark(tag: str, value: object) -> Change:
    def change(data: FileDataset, _: int) -> None:
        setattr(data, tag, value)

    return change


def write_two(folder: Path, changes: tuple[Change, ...], offset: float, shapes: tuple = (SHAPE, SHAPE)) -> None:
    """Write stacks 2.5 mm apart under one series, each ``offset`` mm higher than the last."""
    for n, (change, shape) in enumerate(zip(changes, shapes, strict=True)):
        write_series(
            folder, hu_values(shape, seed=n), uid="1.2.3", number=3, spacing=(1.0, 1.0, 2.5),
            origin=(-20.0, -30.0, -40.0 + n * offset), prefix=f"P{n}-", change=change,
        )  # fmt: skip


def check_both(folder: Path, shapes: tuple = (SHAPE, SHAPE)) -> Case:
    """Check that each of two stacks is read whole and alone; return the case without a choice."""
    for n, number in enumerate(("3", "3-2")):
        got = read_case(only_case(folder, series=number))
        assert np.array_equal(got.array, hu_values(shapes[n], seed=n)), number
        assert got.spacing[2] == pytest.approx(2.5)
    case = only_case(folder)
    assert case.series is not None
    assert case.series.number == "3"
    assert any("series 3-2" in note for note in case.notes)
    return case


def seconds(start: int) -> Change:
    """Content times that rise along the stack."""

    def change(data: FileDataset, k: int) -> None:
        data.ContentTime = f"{start + k:06d}.25"

    return change


@pytest.mark.parametrize("offset", [0.0, 1.25, 1.0, 0.3])
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ((mark("AcquisitionNumber", 4), mark("AcquisitionNumber", 11)), "acquisition 4"),
        ((mark("TemporalPositionIdentifier", 1), mark("TemporalPositionIdentifier", 2)), "temporal position 1"),
        (tuple(mark("NominalPercentageOfCardiacPhase", n) for n in (40, 75)), "cardiac phase 40"),
        ((mark("TriggerTime", "350"), mark("TriggerTime", "650")), "trigger time 350"),
        ((mark("ContentTime", "101500.5"), mark("ContentTime", "101700.5")), "content time 1 of 2"),
        ((seconds(101500), seconds(101900)), "content time 1 of 2"),
        ((mark("SeriesTime", "101010"), mark("SeriesTime", "101510")), "series time 1 of 2"),
        ((mark("ContrastBolusAgent", ""), mark("ContrastBolusAgent", "Iomeron")), "contrast 1 of 2"),
        ((mark("KVP", 80), mark("KVP", 140)), "tube voltage 80"),
        ((mark("ConvolutionKernel", "B30f"), mark("ConvolutionKernel", "B70f")), "kernel 1 of 2"),
    ],
)  # fmt: skip
def test_acquisitions_under_one_series_stay_apart(tmp_path: Path, changes: tuple, name: str, offset: float) -> None:
    write_two(tmp_path / "s", changes, offset)
    assert name in check_both(tmp_path / "s").notes[0]


def test_overlapping_acquisitions_stay_apart(tmp_path: Path) -> None:
    shapes = ((12, 10, 12), (12, 10, 8))
    write_two(tmp_path / "s", (mark("AcquisitionNumber", 1), mark("AcquisitionNumber", 2)), 20.0, shapes)
    check_both(tmp_path / "s", shapes)


def test_an_acquisition_that_lacks_slices_says_so(tmp_path: Path) -> None:
    for n in range(2):
        write_series(
            tmp_path / "s", hu_values(SHAPE, seed=n), uid="1.2.3", number=3, skip=(4,), prefix=f"P{n}",
            change=mark("AcquisitionNumber", n),
        )  # fmt: skip
    assert "lacks 1 slice" in refusal(tmp_path / "s", series="3-2")


def test_phases_of_two_acquisitions_are_told_apart_by_both_marks(tmp_path: Path) -> None:
    for n in range(6):

        def change(data: FileDataset, _: int, n: int = n) -> None:
            data.AcquisitionNumber, data.NominalPercentageOfCardiacPhase = n // 3, 10 * (n % 3)

        write_series(tmp_path / "s", hu_values(SHAPE, seed=n), uid="1.2.3", number=3, prefix=f"P{n}", change=change)
    found = {}
    for number in ("3", *(f"3-{n}" for n in range(2, 7))):
        case = only_case(tmp_path / "s", series=number)
        assert case.series is not None
        found[case.series.mark] = read_case(case).array
    for n in range(6):
        array = found[f"acquisition {n // 3}, cardiac phase {10 * (n % 3)}"]
        assert np.array_equal(array, hu_values(SHAPE, seed=n))


ORDERS: dict[str, tuple[str, Callable[[int, int], object]]] = {
    "by place": ("InstanceNumber", lambda n, k: 2 * k + n),
    "one after the other": ("InstanceNumber", lambda n, k: 9 * n + k),
    "up and down": ("InstanceNumber", lambda n, k: 17 - k if n else k),
    "in slabs": ("AcquisitionNumber", lambda n, k: 1 + k // 4 + 3 * n),
    "by acquisition": ("AcquisitionNumber", lambda n, k: 9 * n + k),
    "in time": ("ContentTime", lambda n, k: f"1015{9 * n + k:02d}.5"),
    "in time, down": ("AcquisitionTime", lambda n, k: f"10{15 + n:02d}{50 - k:02d}"),
}


@pytest.mark.parametrize("offset", [0.0, 1.25, 1.0])
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_in_which_images_were_made_tells_stacks_apart(tmp_path: Path, order: str, offset: float) -> None:
    if (order, offset) == ("by place", 1.25):
        return  # one stack as good as two
    tag, value = ORDERS[order]

    def change(n: int) -> Change:
        return lambda data, k: setattr(data, tag, value(n, k))

    write_two(tmp_path / "s", (change(0), change(1)), offset)
    check_both(tmp_path / "s")


def test_places_alone_tell_apart_stacks_that_do_not_lie_midway(tmp_path: Path) -> None:
    write_two(tmp_path / "s", (mark("KVP", 120), mark("KVP", 120)), 1.0)
    check_both(tmp_path / "s")


def test_steps_of_one_scan_that_overlap_by_few_slices_are_joined(tmp_path: Path) -> None:
    whole = hu_values((12, 10, 30))
    for n in range(3):
        ends = (max(10 * n - 1, 0), 10 * n + 11)

        def change(data: FileDataset, k: int, n: int = n) -> None:
            data.AcquisitionNumber = n
            if k not in range(10 * n, 10 * n + 10):
                data.PixelData = bytes(len(data.PixelData))

        write_series(tmp_path / "s", whole, uid="1.2.3", number=3, prefix=f"P{n}", change=change,
                     skip=tuple(k for k in range(30) if not ends[0] <= k < ends[1]))  # fmt: skip
    case = only_case(tmp_path / "s")
    got = read_case(case).array
    assert got.shape == whole.shape
    same = [k for k in range(30) if np.array_equal(got[:, :, k], whole[:, :, k])]
    assert len(same) == 28  # of the two slices at each seam one is of either side
    assert any("4 images left out" in note for note in case.notes)


def test_stray_images_far_away_do_not_hide_the_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values((12, 10, 30)), uid="1.2.3", number=3, change=mark("AcquisitionNumber", 2))
    write_series(tmp_path / "s", hu_values((12, 10, 2)), uid="1.2.3", number=3, prefix="B",
                 origin=(-20.0, -30.0, 150.0), change=mark("AcquisitionNumber", 1))  # fmt: skip
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values((12, 10, 30)))


def test_parts_of_a_scan_that_lacks_slices_are_not_taken_for_scans(tmp_path: Path) -> None:
    def part(data: FileDataset, k: int) -> None:
        data.AcquisitionNumber = k // 10

    write_series(tmp_path / "s", hu_values((12, 10, 40)), skip=tuple(range(20, 24)), change=part)
    assert "lacks 4 slices" in refusal(tmp_path / "s")


def test_folders_tell_phases_apart(tmp_path: Path) -> None:
    for n in range(2):
        write_series(tmp_path / "s" / f"phase{n}", hu_values(SHAPE, seed=n), uid="1.2.3", number=3,
                     spacing=(1.0, 1.0, 2.5))  # fmt: skip
    check_both(tmp_path / "s")


def test_images_of_the_bolus_at_one_place_do_not_hide_the_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values(SHAPE), uid="1.2.3", number=3, change=mark("AcquisitionNumber", 2))
    write_series(tmp_path / "s", hu_values((12, 10, 4), seed=1), uid="1.2.3", number=3, step=(0.0, 0.0, 0.0),
                 origin=(-20.0, -30.0, -34.0), prefix="B", change=mark("AcquisitionNumber", 1))  # fmt: skip
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values(SHAPE))


# --- copies --------------------------------------------------------------------------------------------------------


def test_copies_are_left_out(tmp_path: Path) -> None:
    def another(data: FileDataset, _: int) -> None:
        data.InstanceNumber += 100  # and another UID of the image

    write_series(tmp_path / "some", hu_values(), uid="1.2.3")
    write_series(tmp_path / "some", hu_values(), uid="1.2.3", prefix="COPY", skip=(0, 3, 4, 5), change=another)
    write_series(tmp_path / "all" / "a", hu_values(), uid="1.2.3")
    shutil.copytree(tmp_path / "all" / "a", tmp_path / "all" / "b")
    for name, copies in (("some", 4), ("all", 8)):
        case = only_case(tmp_path / name)
        assert np.array_equal(read_case(case).array, hu_values())
        assert any(note.startswith(f"{copies} files left out") for note in case.notes)


def test_files_reached_through_links_are_read_once(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "a", hu_values())
    (tmp_path / "study" / "b").symlink_to(tmp_path / "study" / "a", target_is_directory=True)
    for path in (tmp_path / "study" / "a").glob("*[02468]"):
        (tmp_path / "study" / "a" / f"link-{path.name}").symlink_to(path)
    case = only_case(tmp_path / "study")
    assert np.array_equal(read_case(case).array, hu_values())
    assert case.notes == ()


def test_images_of_one_uid_with_different_voxels_are_no_copies(tmp_path: Path) -> None:
    def same_uid(number: int) -> Change:
        def change(data: FileDataset, k: int) -> None:
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
            data.AcquisitionNumber = number

        return change

    write_two(tmp_path / "s", (same_uid(1), same_uid(2)), 0.0)
    assert dcmread(tmp_path / "s" / "P0-0000").SOPInstanceUID.startswith("1.2.3.")
    check_both(tmp_path / "s")


@pytest.mark.parametrize("same_uid", [True, False])
def test_copies_among_phases_are_left_out(tmp_path: Path, same_uid: bool) -> None:
    shape = (12, 10, 14)

    def another(data: FileDataset, _: int) -> None:
        data.TemporalPositionIdentifier = 1
        if same_uid:
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"

    changes = (another, mark("TemporalPositionIdentifier", 2))
    write_two(tmp_path / "s", changes, 0.0, (shape, shape))
    write_series(
        tmp_path / "s", hu_values(shape, seed=0), uid="1.2.3", number=3, spacing=(1.0, 1.0, 2.5), prefix="COPY",
        skip=tuple(range(13)), change=another,
    )  # fmt: skip
    check_both(tmp_path / "s", (shape, shape))
