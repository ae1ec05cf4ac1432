"""Pictures of images with their labels."""

from __future__ import annotations

import numpy as np

from CardiacLDMLib import anatomy


def panel(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, predicted_image: np.ndarray | None = None
) -> np.ndarray:
    """(H, W, 3) uint8: middle slices of the heart in three planes, reference above, prediction below.

    Images are 0..1; below lies ``predicted_image`` if there is one.
    """
    palette = np.array([(0, 0, 0)] + [s.colour for s in anatomy.STRUCTURES], dtype=np.float32)
    middle = np.argwhere(reference).mean(0).astype(int) if reference.any() else np.array(reference.shape) // 2
    side = max(image.shape)
    rows = []
    for values, labels in ((image, reference), (image if predicted_image is None else predicted_image, prediction)):
        tiles = []
        for axis in (2, 1, 0):
            grey = np.take(values, middle[axis], axis=axis)[..., None] * np.float32(255)
            names = np.take(labels, middle[axis], axis=axis)
            tile = np.where(names[..., None] > 0, 0.5 * grey + 0.5 * palette[names], grey)
            tile = np.flip(tile, axis=(0, 1)).swapaxes(0, 1)  # as read: anterior or head up, the patient's right left
            canvas = np.zeros((side, side, 3), dtype=np.float32)
            canvas[: tile.shape[0], : tile.shape[1]] = tile
            tiles.append(canvas)
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0).clip(0, 255).astype(np.uint8)
