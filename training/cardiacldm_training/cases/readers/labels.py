"""Read the labels of a case, whatever kind of file they are, as the project's values on the scan's grid.

A label map holds values. A segmentation of Slicer's, a DICOM SEG and a folder of masks hold segments, which may overlap
and may cover a part of the scan alone; each is recognised by its code, then by its name. Where segments of two
structures overlap, the smaller one has the voxel: an appendage lies within an atrium that was drawn with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.dicom.headers import is_dicom
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import LPS_TO_RAS, Grid
from CardiacLDMLib.image.headers import is_segmentation
from CardiacLDMLib.image.labels import check_labels
from CardiacLDMLib.text import join_words, plural, printable

from .files import ImageFiles, stem
from .label_map import BACKGROUND, OWN, UNKNOWN, LabelMap, Meaning, plain, unknown_structures

#: Tolerance within which a scan and its labels have the same grid.
SAME_GRID_MM = 0.01
#: The same for segments that cover a part of the scan, as a share of a voxel: DICOM rounds places to text.
_SAME_VOXEL = 0.1
#: Names of segments of the whole heart (see :func:`plain`), and the structures that say more than these.
_WHOLE_HEART = ("heart", "wholeheart")
_CHAMBERS = {"LA", "LV", "RA", "RV", "MYO"}


def has_segments(path: Path) -> bool:
    """Return whether labels are segments, of whatever kind of file, and no map of values."""
    return path.is_dir() or (path.is_file() and (is_dicom(path) or is_segmentation(path)))


class Labels(NamedTuple):
    """Labels as read: uint8 array (I, J, K) on the scan's grid, with 255 where they teach nothing.

    ``unknown``: structures that may also lie where there is background, since the data set does not label them, or only
    a part of them. ``notes``: sentences for the user.
    """

    array: np.ndarray
    unknown: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class _Segment(NamedTuple):
    """A segment: the voxels of ``layer`` (I, J, K; on the scan's grid) that have ``value``."""

    name: str
    meaning: Meaning | None
    layer: np.ndarray
    value: int = 1


def read_labels(files: ImageFiles, grid: Grid) -> Labels:
    """Read the labels of a case on the ``grid`` of its scan; all 0 without a file. Raises :class:`VolumeError`."""
    path = files.labels
    if path is None:
        return Labels(np.zeros(grid.shape, dtype=np.uint8))
    if path.is_dir():
        return _combined(_masks(path, files.label_map, grid), grid, path)
    if path.is_file() and is_dicom(path):
        return _combined(_dicom_segments(path, files.label_map, grid), grid, path)
    if path.is_file() and is_segmentation(path):
        return _combined(_slicer_segments(path, files.label_map, grid), grid, path)
    return _values(path, files.label_map, grid)


def _check_grid(labels: Grid, scan: Grid, path: Path) -> None:
    if not labels.same_as(scan, tolerance_mm=SAME_GRID_MM):
        sizes = [" x ".join(map(str, grid.shape)) for grid in (labels, scan)]
        where = (
            f"{sizes[0]} and {sizes[1]} voxels" if sizes[0] != sizes[1] else "in another place or of another spacing"
        )
        raise VolumeError(f"{path.name} has another grid than its scan ({where}): resample the labels first.")


# --- values --------------------------------------------------------------------------------------------------------


def _values(path: Path, label_map: LabelMap, grid: Grid) -> Labels:
    labels = read_volume(path)
    _check_grid(labels.grid, grid, path)
    if label_map == OWN:
        check_labels(labels.array)
        return Labels(labels.array.astype(np.uint8))
    array = _whole_numbers(labels.array, path)
    present = _present(array)
    wrong = [int(value) for value in present if value and value not in label_map.values]
    if wrong and not label_map.values:
        raise VolumeError(f"{path.name} holds no segments but values: say in a table with --map what they mean.")
    if wrong:
        raise VolumeError(
            f"The labels {path.name} hold {'the value' if len(wrong) == 1 else 'the values'} "
            f"{join_words([str(value) for value in wrong[:5]])}, which {label_map.title} does not name: give a table "
            "with --map."
        )
    if label_map.only_one and np.count_nonzero(present) == 1:
        raise VolumeError(f"{path.name} {label_map.only_one}")
    table = np.zeros(int(present.max(initial=0)) + 1, dtype=np.uint8)
    for value, meaning in label_map.values.items():
        if value < len(table):
            table[value] = meaning.value
    unfamiliar = [name for value, name in label_map.named.items() if value in present and not label_map.of_name(name)]
    return Labels(table[array], unknown_structures(label_map.values.values()), _unfamiliar(unfamiliar))


def _present(array: np.ndarray) -> np.ndarray:
    """Return the values of ``array`` (I, J, K; uint16), in their order; slice by slice, to save memory."""
    found = np.zeros(np.iinfo(np.uint16).max + 1, dtype=bool)
    for k in range(array.shape[2]):
        found[array[:, :, k]] = True
    return np.flatnonzero(found)


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    """Return ``array`` as whole numbers from 0 to 65535. Raises :class:`VolumeError` for others."""
    low, high = array.min(), array.max()
    wrong = [value for value in (low, high) if not 0 <= value <= np.iinfo(np.uint16).max]  # also NaN
    if not wrong and array.dtype.kind == "f":
        wrong = list(array[array != np.rint(array)][:1])
    if wrong:
        raise VolumeError(f"The labels {path.name} hold the value {wrong[0]:.6g}: labels are whole numbers from 0.")
    return array.astype(np.uint16)


# --- segments ------------------------------------------------------------------------------------------------------


def _combined(segments: Iterable[_Segment], grid: Grid, path: Path) -> Labels:
    """Return segments as one label map. Raises :class:`VolumeError` if none of them is a structure."""
    segments = list(segments)
    known = [segment for segment in segments if segment.meaning and segment.meaning.target in anatomy.NAMES]
    if not known:
        names = [printable(segment.name) for segment in segments[:5]]
        listed = f" ({', '.join(names)})" if names else ""
        raise VolumeError(
            f"{path.name} holds no segment of a heart structure that is known by code or name{listed}: name them in a "
            "table with --map."
        )
    targets = {segment.meaning.target for segment in known if segment.meaning}
    out = np.zeros(grid.shape, dtype=np.uint8)
    for segment in segments:
        if plain(segment.name) in _WHOLE_HEART and targets >= _CHAMBERS:
            continue  # what is left of it are walls, which are background
        if segment.meaning is None or segment.meaning.target == UNKNOWN:
            out[segment.layer == segment.value] = Meaning(UNKNOWN).value
    taken = np.zeros(grid.shape, dtype=bool)
    overlap = 0
    by_name = [[s for s in known if s.meaning and s.meaning.target == name] for name in anatomy.NAMES]
    masks = [(anatomy.VALUE[name], _union(group)) for name, group in zip(anatomy.NAMES, by_name, strict=True) if group]
    for value, mask in sorted(masks, key=lambda pair: -np.count_nonzero(pair[1])):
        overlap += int(np.count_nonzero(taken & mask))
        taken |= mask
        out[mask] = value
    notes = _unfamiliar([segment.name for segment in segments if segment.meaning is None])
    if overlap:
        notes += (f"Its structures overlap in {plural(overlap, 'voxel')}: the smaller structure has them.",)
    return Labels(out, unknown_structures(s.meaning for s in known if s.meaning), notes)


def _union(segments: Sequence[_Segment]) -> np.ndarray:
    mask = segments[0].layer == segments[0].value
    for segment in segments[1:]:
        mask |= segment.layer == segment.value
    return mask


def _unfamiliar(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    listed = join_words([printable(name) for name in names[:5]])
    return (f"What {listed} stands for is not known, so these voxels teach nothing: name it in a table with --map.",)


def on_grid(array: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Return ``array`` (I, J, K; ``affine``: to RAS mm), which may cover a part of ``grid``, on the whole of it.

    Its axes may run in another order or direction. Raises :class:`VolumeError` unless its voxels are those of ``grid``.
    """
    to_scan = np.linalg.inv(grid.affine) @ affine
    turn, start = np.rint(to_scan[:3, :3]), np.rint(to_scan[:3, 3])
    distance = np.abs(to_scan[:3, 3] - start) + np.abs(to_scan[:3, :3] - turn) @ (np.array(array.shape) - 1)
    if (np.abs(turn).sum(0) != 1).any() or (np.abs(turn).sum(1) != 1).any() or distance.max() > _SAME_VOXEL:
        raise VolumeError("Its voxels are not those of the scan: resample the labels to the scan's grid first.")
    axes = [int(np.flatnonzero(row)[0]) for row in turn]
    array = array.transpose(axes)
    out = np.zeros(grid.shape, dtype=array.dtype)
    inside, part = [], []
    for axis, n in enumerate(array.shape):
        if turn[axis, axes[axis]] < 0:
            array, start[axis] = np.flip(array, axis), start[axis] - (n - 1)
        low = int(start[axis])
        inside.append(slice(max(low, 0), max(min(low + n, grid.shape[axis]), 0)))
        part.append(slice(max(-low, 0), max(min(n, grid.shape[axis] - low), 0)))
    out[tuple(inside)] = array[tuple(part)]
    return out


def _meaning(label_map: LabelMap, scheme: str, code: str, names: Sequence[str]) -> Meaning | None:
    """Return what a segment stands for: by the user's table, then by its code, then by its names; None if unknown."""
    from pydicom.sr.coding import Code

    chosen = next(filter(None, map(label_map.of_choice, (*names, f"{scheme} {code}"))), None)
    if chosen is not None:
        return chosen
    for structure in anatomy.STRUCTURES:
        if Code(code, scheme, "") == Code(structure.snomed_code, "SCT", ""):  # SNOMED's older codes too
            return Meaning(structure.name)
    return next(filter(None, map(label_map.of_name, (f"{scheme} {code}", *names))), None)


# --- the kinds of files with segments ------------------------------------------------------------------------------


def mask_files(folder: Path, label_map: LabelMap) -> list[tuple[Path, Meaning]]:
    """Return the masks of ``folder`` whose names are familiar and that are no background: the others are not read."""
    found = ((path, label_map.of_name(stem(path))) for path in sorted(folder.iterdir()) if stem(path))
    return [(path, meaning) for path, meaning in found if meaning and meaning.target != BACKGROUND]


def _masks(folder: Path, label_map: LabelMap, grid: Grid) -> Iterator[_Segment]:
    names: dict[str, Path] = {}
    for path, meaning in mask_files(folder, label_map):
        if names.setdefault(stem(path), path) != path:
            raise VolumeError(f"It has two masks, {names[stem(path)].name} and {path.name}: keep one.")
        mask = read_volume(path)
        _check_grid(mask.grid, grid, path)
        array = _whole_numbers(mask.array, path)
        value = int(array.max())
        if np.count_nonzero(array) != np.count_nonzero(array == value) and value:
            raise VolumeError(f"{path.name} holds several values: a mask holds one beside 0.")
        yield _Segment(stem(path), meaning, array, value or 1)


def _slicer_segments(path: Path, label_map: LabelMap, grid: Grid) -> Iterator[_Segment]:
    from slicerio import read_segmentation

    try:
        content: Any = read_segmentation(str(path))
        array, segments = np.asarray(content["voxels"]), content.get("segments", [])
        layers = array if array.ndim == 4 else array[None]
        placed = [on_grid(layer, LPS_TO_RAS @ content["ijkToLPS"], grid) for layer in layers]
    except VolumeError as error:
        raise VolumeError(f"{path.name}: {error}") from error
    except Exception as error:  # pynrrd and slicerio raise errors of many kinds for damaged files
        raise VolumeError(f"{path.name} cannot be read: the file is damaged or cut short.") from error
    for number, segment in enumerate(segments):
        name = str(segment.get("name") or segment["id"])
        kind = (segment.get("terminology") or {}).get("type") or ["", ""]
        meaning = _meaning(label_map, kind[0], kind[1], (name, str(segment["id"])))
        layer = int(segment.get("layer", number if array.ndim == 4 else 0))
        if not 0 <= layer < len(placed):
            raise VolumeError(f"{path.name} cannot be read: the segment {printable(name)} lies in no layer.")
        yield _Segment(name, meaning, placed[layer], int(segment.get("labelValue", 1)))


def _dicom_segments(path: Path, label_map: LabelMap, grid: Grid) -> Iterator[_Segment]:
    from highdicom.seg import segread

    try:
        content = segread(path)
        numbers = list(content.segment_numbers)
    except Exception as error:  # highdicom and pydicom raise errors of many kinds for damaged files
        raise VolumeError(f"{path.name} cannot be read as a DICOM segmentation.") from error
    for number in numbers:
        about = content.get_segment_description(number)
        code = about.segmented_property_type
        meaning = _meaning(label_map, code.scheme_designator, code.value, (about.segment_label,))
        try:
            volume = content.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        except Exception as error:
            raise VolumeError(f"{path.name}: its frames do not form a volume.") from error
        affine = LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
        try:
            layer = on_grid(volume.array.transpose(2, 1, 0), affine, grid)
        except VolumeError as error:
            raise VolumeError(f"{path.name}: {error}") from error
        yield _Segment(about.segment_label, meaning, layer)
