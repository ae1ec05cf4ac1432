"""Statistics of label maps: volumes, structures that the grid cuts, broken rules of plausibility, speckle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wasserstein_distance

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.segmentation.cleanup import clean

from . import compare
from .cases import Pair
from .compare import Comparison


@dataclass(frozen=True)
class LabelFindings:
    """Findings on one label map.

    ``volumes_ml`` of the structures that are there; ``cut``: those that reach the edge of the grid; ``broken``: rules
    of plausibility; ``speckle``: share of the labelled voxels that the clean-up changes.
    """

    volumes_ml: dict[str, float]
    cut: frozenset[str]
    broken: frozenset[str]
    speckle: float


class VolumeRow(Record):
    """One structure: in how many cases it is whole, cut by the edge of the grid or missing; volumes in mL.

    Whole and cut ones are compared separately; a mean or a distance is None where there are too few.
    """

    structure: str
    whole: tuple[int, int]  # generated, reference
    cut: tuple[int, int]
    missing: tuple[int, int]
    mean_ml: tuple[float | None, float | None]
    distance: Comparison | None
    distance_cut: Comparison | None


def examine(pair: Pair) -> LabelFindings:
    """Judge the labels of one pair, which must hold at least one structure. Raises VolumeError."""
    labels = plausibility.as_labels(pair.labels_volume)
    changed = int((clean(pair.labels, labels.voxel_ml) != pair.labels).sum())
    return LabelFindings(
        labels.volumes_ml(), labels.cut, frozenset(finding.rule for finding in plausibility.check(labels)),
        changed / int((pair.labels > 0).sum()),
    )  # fmt: skip


def volume_rows(generated: Sequence[LabelFindings], reference: Sequence[LabelFindings]) -> list[VolumeRow]:
    """Return a row for each structure."""
    return [_row(name, generated, reference) for name in NAMES]


def _row(name: str, generated: Sequence[LabelFindings], reference: Sequence[LabelFindings]) -> VolumeRow:
    sides = [_whole_and_cut(name, side) for side in (generated, reference)]
    (whole, cut), (whole_ref, cut_ref) = sides
    return VolumeRow(
        structure=name,
        whole=(len(whole), len(whole_ref)),
        cut=(len(cut), len(cut_ref)),
        missing=(len(generated) - len(whole) - len(cut), len(reference) - len(whole_ref) - len(cut_ref)),
        mean_ml=(float(whole.mean()) if len(whole) else None, float(whole_ref.mean()) if len(whole_ref) else None),
        distance=compare.compare_distances(
            f"volume of whole {name}", wasserstein_distance, whole, whole_ref, unit="mL"
        ),
        distance_cut=compare.compare_distances(f"volume of cut {name}", wasserstein_distance, cut, cut_ref, unit="mL"),
    )


def _whole_and_cut(name: str, findings: Sequence[LabelFindings]) -> tuple[np.ndarray, np.ndarray]:
    """Return the volumes in mL of a structure where it is whole, and where it is cut."""
    present = [f for f in findings if name in f.volumes_ml]
    whole = [f.volumes_ml[name] for f in present if name not in f.cut]
    return np.array(whole), np.array([f.volumes_ml[name] for f in present if name in f.cut])


def broken_rules(findings: Sequence[LabelFindings]) -> dict[str, int]:
    """Return how many label maps break each rule."""
    count = Counter(rule for f in findings for rule in f.broken)
    return {rule: count[rule] for rule in plausibility.RULES}
