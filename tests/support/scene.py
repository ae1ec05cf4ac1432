"""Scans, labels and transforms for tests in Slicer's real scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.slicer import volumes

SHAPE = (9, 11, 13)
#: Kinds of :func:`affine`.
KINDS = ["ras", "left-handed", "oblique", "permuted"]
#: A record of provenance with characters that files might change.
RECORD = {"package": "virtual-heart-v2", "warnings": 'One; two: "three" <four>\nfünf = 5%', "seconds": "14.2"}
#: Volumes of some structures, mL.
VOLUMES = {"LA": 80.25, "LV": 120.0, "MYO": 110.0, "LAA": 0.0}


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = [d for d in range(3) if d != axis]
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def affine(kind: str) -> np.ndarray:
    matrix = np.diag([0.8, 0.9, 2.5, 1.0])
    matrix[:3, 3] = -30, 40, -110
    return {
        "ras": matrix,
        "left-handed": np.diag([-1.0, 1.0, 1.0, 1.0]) @ matrix,
        "oblique": rotation(20, 0) @ rotation(-35, 2) @ matrix,
        "permuted": matrix[:, [2, 0, 1, 3]],
    }[kind]


def scan(kind: str = "ras", dtype: Any = np.int16) -> Volume:
    values = np.random.default_rng(1).integers(-1000, 1000, SHAPE)
    return Volume(values.astype(dtype), affine(kind))


def labels_on(volume: Volume, values: tuple[int, ...] = tuple(anatomy.BY_VALUE)) -> Volume:
    """Return labels on the grid of ``volume``: a small box per value, apart from each other and from the edges."""
    array = np.zeros(volume.array.shape, np.uint8)
    for value in values:
        k = value
        array[1 + value % 3 : 5, 2:9, k : k + 2] = value
    return Volume(array, volume.affine)


def transform_node(mrml: Any, matrix: np.ndarray) -> Any:
    node = mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(volumes.vtk_matrix(matrix))
    return node
