"""Check the labels of a case, with its CT where there is one, and point to the worst place of each fault.

Each rule exists once: those of a plausible heart are :mod:`..generation.plausibility`'s, which also decide which
generated pairs are accepted; remarks on volumes and on the scan's edge are :mod:`..segmentation.findings`', which the
table in Slicer shows. The other rules of this room need what only a review has: limits from good labels, the CT, or a
second label map. Findings flag labels for a reader; they never reject them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..generation import plausibility
from ..image.grid import Volume
from ..image.labels import check_labels
from ..segmentation import findings as remarks
from ..segmentation.findings import Finding


def check(
    labels: Volume, image: Volume | None = None, *, sex: anatomy.Sex | None = None, own: Volume | None = None,
    mirrored: Volume | None = None,
) -> list[Finding]:  # fmt: skip
    """Return the findings on ``labels`` (0 to 8), worst first: those with the largest share of a structure in doubt.

    ``image``: the CT in HU. ``own``: a package's labels of it. ``mirrored``: the package's labels of the mirrored CT,
    turned back; they are compared with ``own``, or with ``labels`` without it. All have the grid of ``labels``. A
    whole heart's volumes are compared with the limits of ``sex`` if it is known.

    Raises :class:`VolumeError` for values that are no labels, and for volumes on another grid.
    """
    for volume, what in ((image, "CT"), (own, "second label map"), (mirrored, "label map of the mirrored CT")):
        if volume is not None and not volume.grid.same_as(labels.grid, tolerance_mm=0.1):
            raise VolumeError(
                f"The {what} has another grid than the labels: {_size(volume)} and {_size(labels)} voxels."
            )
    check_labels(labels.array)
    if not labels.array.any():
        return [Finding("missing", severity=1.0)]
    whole = plausibility.as_labels(labels)
    found = [*_volumes(labels, whole, sex), *(f for f in plausibility.check(whole) if f.rule != "missing")]
    return worst_first(found)


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings in the order of their severity; equals stay in the order of the rules."""
    return sorted(findings, key=lambda finding: -finding.severity)


def _size(volume: Volume) -> str:
    return " x ".join(map(str, volume.array.shape))


def _volumes(labels: Volume, whole: plausibility.Labels, sex: anatomy.Sex | None) -> list[Finding]:
    """Return the edges that cut the heart off, missing structures one by one, and unusual volumes.

    Where the scan cuts the heart off, no volume is judged, and a structure that it may end before is not missing.
    """
    volumes = dict.fromkeys(anatomy.NAMES, 0.0) | whole.volumes_ml()
    found = remarks.findings(labels, volumes, sex)
    is_cut = any(finding.rule == "cut off" for finding in found)
    missing = {f.structures[0] for f in plausibility.missing(whole)} if is_cut else set(anatomy.NAMES)
    out: list[Finding] = []
    for finding in found:
        if finding.rule == "missing":
            out += [replace(finding, structures=(name,)) for name in finding.structures if name in missing]
        elif finding.rule == "cut off":
            out.append(replace(finding, place=_edge_place(whole, finding)))
        else:
            name = finding.structures[0]
            out.append(replace(finding, place=whole.place_in(name, whole.mask(name))))
    return out


def _edge_place(whole: plausibility.Labels, finding: Finding) -> remarks.Place:
    """Return the voxel in the middle of the structures at the edge of the scan that cuts them off."""
    axis, at_end = next((a, s.index(finding.where)) for a, s in enumerate(remarks.SIDES) if finding.where in s)
    layer = np.moveaxis(whole.array, axis, 0)[-at_end]
    at_edge = np.argwhere(np.isin(layer, [anatomy.VALUE[name] for name in finding.structures]))
    middle = at_edge[np.abs(at_edge - at_edge.mean(0)).sum(1).argmin()] if len(at_edge) else np.array(layer.shape) // 2
    return whole.place(np.insert(middle, axis, at_end * (whole.array.shape[axis] - 1)))
