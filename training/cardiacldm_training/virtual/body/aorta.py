"""Diseases of the aorta: dissection with a false lumen, and thrombus on the wall. Labels stay: all of it is aorta."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from CardiacLDMLib.anatomy import VALUE

from ..shapes import perpendicular, unit
from ..tissue import Tissue
from .canvas import Canvas, LabelBoxes
from .frame import BodyFrame, Landmarks

#: Distance of the points of the aorta's axis, mm.
STEP_MM = 5.0
#: Share of dissections that begin in the ascending aorta, type A (IRAD registry: about two thirds of acute ones; fewer
#: here, since type B is what follow-up scans show).
TYPE_A = 0.45


def aortic_axis(marks: Landmarks, frame: BodyFrame) -> np.ndarray:
    """Return the axis of the aorta (N, 3; mm), about every 5 mm from the valve to the abdomen.

    Its points are the centres of shells of equal distance from the valve within the vessel.
    """
    points = marks.points("AO")
    pairs = cKDTree(points).query_pairs(1.8 * marks.lattice.spacing, output_type="ndarray")
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = sparse.coo_matrix((length, (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2).tocsr()
    valve = cKDTree(marks.points("LV")).query(points)[0].argmin()
    along = dijkstra(graph, directed=False, indices=valve)
    shell = np.where(np.isfinite(along), along // STEP_MM, -1).astype(int)
    axis = [points[shell == n].mean(0) for n in range(shell.max() + 1) if (shell == n).any()]
    below = frame.aorta[frame.aorta[:, 2] < points[:, 2].min() - STEP_MM, :3]
    return gaussian_filter1d(np.vstack([np.array(axis).reshape(-1, 3), below]), 1.2, axis=0, mode="nearest")


def paint_aortic_disease(
    canvas: Canvas, marks: Landmarks, labels: LabelBoxes, frame: BodyFrame, rng: np.random.Generator
) -> None:
    """Paint a dissection or a thrombus into the labelled aorta if it is among the patient's findings."""
    dissected = "dissection" in marks.findings
    box = labels.box(("AO",), 0)
    if box is None or not (dissected or "mural thrombus" in marks.findings):
        return
    inside = labels.array[box] == VALUE["AO"]
    lattice = canvas.lattice.crop(box)
    points = lattice.origin + lattice.spacing * np.argwhere(inside)
    axis = aortic_axis(marks, frame)
    place, aside, across, radius = _cross_sections(axis, points)
    first, last = _draw_extent(axis[: place.max() + 1], dissected, rng)
    turn = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.015, 0.015) * STEP_MM * place  # a dissection spirals
    depth = aside * np.cos(turn) + across * np.sin(turn)
    width = -aside * np.sin(turn) + across * np.cos(turn)
    bend = rng.uniform(-0.35, 0.35)
    wave = np.interp(place, np.arange(len(axis)), gaussian_filter1d(rng.standard_normal(len(axis)), 3.0) * 0.6)
    level = depth - radius * (rng.uniform(-0.25, 0.35) if dissected else rng.uniform(0.15, 0.55))
    level = level - bend * np.square(width) / radius - wave * radius * 0.4
    diseased = (place >= first) & (place <= last)
    tissue = np.full(len(points), Tissue.AO, dtype=np.uint8)
    behind = diseased & (level > 0)
    if dissected:
        tissue[behind] = Tissue.FALSE_LUMEN
        clotted = wave > rng.uniform(-0.6, 1.2)
        tissue[behind & (clotted | (level > rng.uniform(0.5, 2.5) * radius))] = Tissue.THROMBUS
        tissue[diseased & (np.abs(level) < 0.5 * max(rng.uniform(1.0, 2.2), lattice.spacing))] = Tissue.FLAP
    else:
        tissue[behind] = Tissue.THROMBUS
    part = canvas.tissue[box]
    part[inside] = np.where(part[inside] == Tissue.AO, tissue, part[inside])


def _cross_sections(axis: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, for points (N, 3; mm): index on the axis, two coordinates across it (mm), radius there (mm)."""
    tangent = np.gradient(axis, axis=0)
    first = [perpendicular([0.3, -0.8, 0.5], unit(tangent[0]))]
    for t in tangent[1:]:  # carried along, so that it does not twist by itself
        first.append(perpendicular(first[-1], unit(t)))
    frame = np.array(first)
    second = np.cross(tangent / np.linalg.norm(tangent, axis=1, keepdims=True), frame)
    away, place = cKDTree(axis).query(points)
    offset = points - axis[place]
    count = np.bincount(place, minlength=len(axis))
    squared = np.bincount(place, np.square(away), minlength=len(axis)) / np.maximum(count, 1)
    radius = np.sqrt(2.0 * np.maximum(squared, 9.0))  # of a disc with this mean squared distance from its middle
    return (place, (offset * frame[place]).sum(1), (offset * second[place]).sum(1), radius[place])


def _draw_extent(axis: np.ndarray, dissected: bool, rng: np.random.Generator) -> tuple[float, float]:
    """Draw where on the part of the axis in the scan the disease begins and ends (indices)."""
    arch = int(axis[: max(len(axis) // 2, 1), 2].argmax())
    if dissected:
        first = rng.uniform(3.0, 6.0) if rng.random() < TYPE_A else arch + rng.uniform(1.0, 5.0)
        return first, float(len(axis)) if rng.random() < 0.7 else first + rng.uniform(12.0, 40.0)
    first = rng.uniform(min(arch, len(axis) - 12.0), len(axis) - 8.0)
    return first, first + rng.uniform(8.0, 30.0)
