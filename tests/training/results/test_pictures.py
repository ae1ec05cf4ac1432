"""The training log's pictures."""

from __future__ import annotations

import numpy as np

from cardiacldm_training.results.pictures import panel
from CardiacLDMLib import anatomy


def test_panel_shows_middle_slices_as_radiologists_look() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (7, 8, 12)).astype(np.float32)
    reference = np.zeros(image.shape, np.uint8)
    reference[2:5, 3:6, 4:9] = anatomy.VALUE["RV"]
    prediction = np.zeros_like(reference)
    picture = panel(image, reference, prediction, predicted_image=1 - image)
    assert picture.shape == (24, 36, 3)
    grey = (255 * (1 - image)).astype(np.uint8)
    axial, coronal, sagittal = grey[::-1, ::-1, 6].T, grey[::-1, 4, ::-1].T, grey[3, ::-1, ::-1].T
    for number, (plane, tile) in enumerate(((axial, (8, 7)), (coronal, (12, 7)), (sagittal, (12, 8)))):
        assert plane.shape == tile
        below = picture[12:, 12 * number : 12 * number + 12]
        np.testing.assert_allclose(below[: tile[0], : tile[1]], plane[..., None].repeat(3, 2), atol=1)
        assert not below[tile[0] :].any()
    colour = np.array(anatomy.BY_VALUE[anatomy.VALUE["RV"]].colour)
    np.testing.assert_allclose(picture[3, 3], 0.5 * 255 * image[3, 4, 6] + 0.5 * colour, atol=1)
    assert panel(image, prediction, prediction).shape == picture.shape
