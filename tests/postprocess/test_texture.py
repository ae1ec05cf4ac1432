"""The texture step: tissues, noise with a given spectrum, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.postprocess import texture


def test_tissues_depend_on_label_and_mean_hu() -> None:
    rng = np.random.default_rng(1)
    hu, labels = np.full((12, 12, 12), -900.0), np.zeros((12, 12, 12), np.uint8)
    hu[:, :, :4], hu[:, :, 4:8] = 50.0, -90.0
    hu[:, :, 4:8] += rng.normal(0, 30, (12, 12, 4))
    labels[:4, :, :2], labels[4:8, :, :2] = VALUE["LV"], VALUE["MYO"]
    tissues = texture.tissue_map(hu, labels)
    assert (tissues[:4, :, :2] == 1).all()
    assert (tissues[4:8, :, :2] == 2).all()
    assert (tissues[8:, :, 1:3] == 3).all()
    assert (tissues[:, :, 5:7] == 4).mean() > 0.95
    assert not tissues[:, :, 9:].any()


def test_bone_and_lung_are_filled_on_request() -> None:
    hu, labels = np.full((6, 6, 12), 400.0), np.zeros((6, 6, 12), np.uint8)
    hu[:, :, 4:8], hu[:, :, 8:] = -850.0, -1000.0
    assert not texture.tissue_map(hu, labels)[:, :, [0, 1, 2, 5, 6]].any()
    tissues = texture.tissue_map(hu, labels, filled=True)
    assert (tissues[:, :, :3] == 3).all()
    assert (tissues[:, :, 5:7] == 4).all()
    assert not tissues[:, :, 10:].any()


def test_each_pair_takes_one_of_the_strengths() -> None:
    hu, labels = np.zeros((12, 12, 12)), np.ones((12, 12, 12), np.uint8)
    spectra = {"blood": [100.0] * texture.BINS}
    usual = texture.Texture(spectra=spectra).apply(hu, labels, 1.5, np.random.default_rng(1)).std()
    assert usual == pytest.approx(10.0, rel=0.1)
    varied = texture.Texture(spectra=spectra, strengths=(0.0, 0.5, 3.0))
    found = {round(float(varied.apply(hu, labels, 1.5, np.random.default_rng(n)).std() / 5)) for n in range(12)}
    assert found == {0, 1, 6}


@pytest.mark.parametrize("shape", [(24, 20, 18), (17, 16, 15)])
def test_noise_has_the_spectrum_that_was_asked_for(shape: tuple[int, int, int]) -> None:
    """Restored SD within 2 %; power by ring within 10 %, over several draws."""
    tissues = np.ones(shape, np.uint8)
    wanted = 100.0 * np.exp(-np.linspace(0, 3, texture.BINS))
    rings = np.minimum((texture.radii(shape) * texture.BINS).astype(int), texture.BINS - 1)
    power, variance = np.zeros(rings.shape), []
    for seed in range(30):
        noise = texture.add_noise(np.zeros(shape), tissues, {"blood": wanted}, np.random.default_rng(seed))
        power += np.abs(np.fft.rfftn(noise)) ** 2 / noise.size / 30
        variance.append(noise.var())
    middles = (np.arange(texture.BINS) + 0.5) / texture.BINS
    by_mode = np.interp(texture.radii(shape), middles, wanted)
    for ring in range(2, texture.BINS - 2):
        here = rings == ring
        assert power[here].mean() == pytest.approx(by_mode[here].mean(), rel=0.1)
    twice = np.full(rings.shape, 2.0)
    twice[..., 0] = 1.0
    if shape[2] % 2 == 0:
        twice[..., -1] = 1.0
    assert np.sqrt(np.mean(variance)) == pytest.approx(np.sqrt((by_mode * twice).sum() / twice.sum()), rel=0.02)


def test_noise_is_added_to_its_tissue_alone() -> None:
    hu, tissues = np.full((16, 16, 16), 40, np.int16), np.zeros((16, 16, 16), np.uint8)
    tissues[:8], tissues[8:12] = 3, 4
    flat = {"soft": [400.0] * texture.BINS, "fat": [0.0] * texture.BINS, "wall": [9.0] * texture.BINS}
    first, again, other = (texture.add_noise(hu, tissues, flat, np.random.default_rng(n)) for n in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()
    assert (first[8:] == 40).all()
    assert first[:8].std() == pytest.approx(20.0, rel=0.1)
    assert (hu == 40).all()


def test_missing_power_is_never_negative() -> None:
    reference = {"blood": (9.0, 4.0), "wall": (1.0, 1.0), "fat": (2.0, 2.0)}
    assert texture.missing_power(reference, {"blood": (4.0, 6.0), "wall": (1.0, 0.5)}) == {
        "blood": (5.0, 0.0), "wall": (0.0, 0.5),
    }  # fmt: skip


@pytest.mark.parametrize(
    "spectra", [{"bone": [1.0] * 14}, {"fat": [1.0] * 13}, {"fat": [-1.0] * 14}, {"fat": [np.nan] * 14}]
)
def test_invalid_spectra_are_refused(spectra: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="14 numbers"):
        texture.add_noise(np.zeros((4, 4, 4)), np.ones((4, 4, 4), np.uint8), spectra, np.random.default_rng(0))
