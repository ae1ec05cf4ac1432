"""Check the labels of a case, with its CT where there is one, and point to the worst place of each fault.

Each rule exists once: those of a plausible heart are :mod:`..generation.plausibility`'s, which also decide which
generated pairs are accepted; remarks on volumes and on the scan's edge are :mod:`..segmentation.findings`', which the
table in Slicer shows. The other rules measure shape, CT and agreement, and compare each measure with the limit of good
labels (:mod:`.limits`). Findings flag labels for a reader; they never reject them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..generation import plausibility
from ..image.grid import Volume
from ..image.labels import check_labels
from ..segmentation import findings as remarks
from ..segmentation.findings import Finding, Place
from . import agreement, shape, tissue
from .limits import LEAST_CONTACT_MM2, LIMITS
from .scene import Measure, Scene, cropped, read_scene, share


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
    labels, (image, own, mirrored) = cropped(labels, (image, own, mirrored))
    whole = plausibility.as_labels(labels)
    found = [*_volumes(labels, whole, sex), *_broken_rules(whole)]
    for part, measures in measured(labels, image, own, mirrored):
        found += _beyond_limits(part, measures)
    return worst_first(found)


Part = plausibility.Labels | Scene


def measured(
    labels: Volume, image: Volume | None, own: Volume | None, mirrored: Volume | None
) -> Iterator[tuple[Part, list[Measure]]]:
    """Yield the measures of shape, of CT and of agreement, each with the labels that were measured.

    The arguments are those of :func:`check`, whose limits are calibrated by these measures of good labels.
    """
    labels, (image, own, mirrored) = cropped(labels, (image, own, mirrored))
    whole = plausibility.as_labels(labels)
    yield whole, list(shape.measures(whole))
    if image is not None or own is not None or mirrored is not None:
        scene = read_scene(labels, image, own, mirrored)
        yield scene, [*tissue.measures(scene), *agreement.measures(scene)]


def _beyond_limits(part: Part, measures: Iterable[Measure]) -> list[Finding]:
    """Return the findings on measures beyond their limits, of several layers of one border the worst."""
    worst: dict[tuple[str, str, str], Finding] = {}
    for measure in measures:
        limit = LIMITS.get(measure.rule, {}).get(measure.key)
        if limit is None or not measure.value > limit:
            continue
        finding, key = _finding(part, measure, limit), (measure.rule, measure.name, measure.where)
        if key not in worst or finding.severity > worst[key].severity:
            worst[key] = finding
    return list(worst.values())


def _finding(part: Part, measure: Measure, limit: float) -> Finding:
    places = np.argwhere(measure.doubt)
    doubt = min(share(measure.doubt, part.array[measure.box] == anatomy.VALUE[measure.name]), 1.0)
    place = _middle(part, places + [s.start or 0 for s in measure.box]) if len(places) else None
    return Finding(measure.rule, (measure.name,), float(measure.value), limit, measure.where, place, doubt)


def _middle(part: Part, places: np.ndarray) -> Place:
    """Return the one of ``places`` (N, 3; indices) that is nearest to their middle, in RAS mm."""
    nearest = places[np.abs((places - places.mean(0)) * part.spacing).sum(1).argmin()]
    x, y, z = (round(float(v), 1) for v in part.affine[:3, :3] @ nearest + part.affine[:3, 3])
    return x, y, z


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


def _broken_rules(whole: plausibility.Labels) -> list[Finding]:
    """Return the broken rules of plausibility, but contacts no wider than those of true hearts."""
    return [
        finding for finding in plausibility.check(whole)
        if finding.rule != "missing" and not (
            finding.rule == "forbidden contact"
            and plausibility.contact_mm2(whole, *finding.structures) <= LEAST_CONTACT_MM2
        )
    ]  # fmt: skip


def _edge_place(whole: plausibility.Labels, finding: Finding) -> remarks.Place:
    """Return the voxel in the middle of the structures at the edge of the scan that cuts them off."""
    axis, at_end = next((a, s.index(finding.where)) for a, s in enumerate(remarks.SIDES) if finding.where in s)
    layer = np.moveaxis(whole.array, axis, 0)[-at_end]
    at_edge = np.argwhere(np.isin(layer, [anatomy.VALUE[name] for name in finding.structures]))
    middle = at_edge[np.abs(at_edge - at_edge.mean(0)).sum(1).argmin()] if len(at_edge) else np.array(layer.shape) // 2
    return whole.place(np.insert(middle, axis, at_end * (whole.array.shape[axis] - 1)))
