"""The virtual scanner: images agree with their protocol, and labels do not change."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import ndimage

from cardiacldm_training.cases.condition_names import IMPLANTS, PHASES, SCANNER_STYLES
from cardiacldm_training.virtual.body.catheters import draw_catheter
from cardiacldm_training.virtual.body.implants import draw_calcium, draw_implant
from cardiacldm_training.virtual.protocol import RANGES, SITES, ScanProtocol, draw_protocol
from cardiacldm_training.virtual.scanner.artefacts import projector, slice_matrix
from cardiacldm_training.virtual.scanner.contrast import draw_means
from cardiacldm_training.virtual.scanner.scanner import scan
from cardiacldm_training.virtual.shapes import Lattice
from cardiacldm_training.virtual.tissue import Body, Tissue

PLAIN = ScanProtocol(streaks=0.0)
LATTICE = Lattice(np.array([-36.0, -36.0, -36.0]), 1.5, (48, 48, 48))


def uniform_body(tissue: Tissue) -> Body:
    full = np.full(LATTICE.shape, tissue, np.uint8)
    return Body(full, np.zeros_like(full))


def small_chest() -> Body:
    """A chest in miniature: pools, wall, sternum, cava and a coronary artery where an implant looks for them."""
    x, y, z = (LATTICE.axis(a) for a in range(3))
    tissue = np.full(LATTICE.shape, Tissue.FAT, np.uint8)

    def ball(centre: tuple[float, float, float], radius: float, code: Tissue) -> None:
        tissue[np.square(x - centre[0]) + np.square(y - centre[1]) + np.square(z - centre[2]) < radius**2] = code

    ball((-8, 0, -10), 17, Tissue.MYO)
    ball((-8, 0, -10), 11, Tissue.LV)
    ball((8, 12, -10), 9, Tissue.RV)
    ball((16, -2, 0), 9, Tissue.RA)
    ball((-8, -8, 9), 12, Tissue.LA)
    ball((-24, 4, 12), 5, Tissue.LAA)
    ball((2, 6, 4), 7, Tissue.AO)
    tissue[(np.hypot(x - 16, y + 2) < 5) & (z > 8)] = Tissue.CAVA
    tissue[(np.hypot(x + 4, y - 18) < 2) & (z > -10) & (z < 20)] = Tissue.CORONARY_ARTERY
    tissue[(np.abs(x) < 9) & (y > 26) & (y < 33) & (z > -40)] = Tissue.BONE
    return Body(tissue, np.where(tissue <= 8, tissue, 0).astype(np.uint8))


@pytest.mark.parametrize("noise_hu", [8.0, 40.0])
def test_noise_is_as_strong_as_the_protocol_says(noise_hu: float) -> None:
    protocol = replace(PLAIN, noise_hu=noise_hu)
    texture = scan(uniform_body(Tissue.MUSCLE), LATTICE, replace(PLAIN, noise_hu=0.0), np.random.default_rng(0)).std()
    noisy = scan(uniform_body(Tissue.MUSCLE), LATTICE, protocol, np.random.default_rng(0)).std()
    assert np.sqrt(max(noisy**2 - texture**2, 0)) == pytest.approx(noise_hu, rel=0.3)


def test_sharp_kernels_are_noisier_between_neighbours_than_iterative_ones() -> None:
    """Soft, iterative noise is alike from voxel to voxel; that of a sharp kernel is not."""

    def likeness(protocol: ScanProtocol) -> float:
        image = scan(uniform_body(Tissue.FLUID), LATTICE, protocol, np.random.default_rng(1)).astype(float)
        image -= ndimage.gaussian_filter(image, 6)
        return float(np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1])

    sharp = likeness(replace(PLAIN, noise_hu=60, blur_mm=0.5, edge=0.8))
    soft = likeness(replace(PLAIN, noise_hu=60, blur_mm=1.0, iterative=0.9))
    assert sharp < 0.35
    assert soft > sharp + 0.25


def test_thick_slices_blur_along_the_body_only() -> None:
    halves = uniform_body(Tissue.GAS)
    halves.tissue[24:] = Tissue.MUSCLE
    thick = replace(PLAIN, noise_hu=0.1, blur_mm=0.6, slice_mm=5.0)
    in_plane = scan(halves, LATTICE, thick, np.random.default_rng(0))[:, 24, 24]
    turned = Body(np.ascontiguousarray(halves.tissue.transpose(2, 1, 0)), halves.labels)
    along = scan(turned, LATTICE, thick, np.random.default_rng(0))[24, 24, :]

    def width(profile: np.ndarray) -> int:
        return int(((profile > -850) & (profile < -100)).sum())

    assert width(along) >= width(in_plane) + 2


@pytest.mark.parametrize(("slice_mm", "offset"), [(0.5, 0.0), (1.5, 0.3), (5.0, 0.9)])
def test_the_slice_matrix_is_a_weighted_mean(slice_mm: float, offset: float) -> None:
    """Every row of the slice matrix is a weighted mean, and a ramp stays where it was."""
    matrix = slice_matrix(60, 1.5, slice_mm, offset)
    assert np.allclose(matrix.sum(1), 1.0, atol=1e-5)
    ramp = matrix @ np.arange(60.0)
    assert np.abs(ramp - np.arange(60.0))[8:-8].max() < 0.4


def test_edges_overshoot_with_an_enhancing_kernel_only() -> None:
    halves = uniform_body(Tissue.MUSCLE)
    halves.tissue[24:] = Tissue.GAS
    quiet = replace(PLAIN, noise_hu=0.1, blur_mm=0.6)
    plain = scan(halves, LATTICE, quiet, np.random.default_rng(3))
    sharp = scan(halves, LATTICE, replace(quiet, edge=0.9), np.random.default_rng(3))
    assert sharp[22:24].max() > plain[22:24].max() + 40


def test_back_projection_gives_back_what_was_projected() -> None:
    disc = (np.hypot(*np.meshgrid(np.arange(40) - 19.5, np.arange(40) - 19.5)) < 12).astype(np.float32)
    rays = projector(40)
    back = rays.reconstruct(rays.project(disc.reshape(-1, 1))).reshape(40, 40)
    assert back[18:22, 18:22].mean() == pytest.approx(1.0, abs=0.1)
    assert abs(back[disc == 0].mean()) < 0.1


def test_dense_contrast_darkens_what_lies_between() -> None:
    """Two dense tubes darken what lies between them, more than what lies aside."""
    body = uniform_body(Tissue.MUSCLE)
    x, y = LATTICE.axis(0), LATTICE.axis(1)
    for side in (-18, 18):
        body.tissue[np.broadcast_to(np.hypot(x - side, y) < 7, LATTICE.shape)] = Tissue.CAVA
    quiet = replace(PLAIN, phase="dual", noise_hu=0.1, superior_cava_hu=1500.0)
    clean = scan(body, LATTICE, quiet, np.random.default_rng(0)).astype(float)
    hard = scan(body, LATTICE, replace(quiet, streaks=1.5), np.random.default_rng(0)).astype(float)
    change = (hard - clean).mean(2)
    assert change[23:25, 23:25].mean() < change[23:25, 2:6].mean() - 8


@pytest.mark.parametrize("implant", IMPLANTS[1:])
def test_implants_are_bright_and_leave_labels_alone(implant: str) -> None:
    body = small_chest()
    before = body.labels.copy()
    protocol = replace(PLAIN, phase="arterial", left_hu=350, right_hu=150)
    found = [draw_implant(body, LATTICE, implant, np.random.default_rng(seed)) for seed in range(4)]
    assert any(one.hu > 700 for many in found for one in many)
    without = scan(body, LATTICE, protocol, np.random.default_rng(1))
    image = scan(body, LATTICE, protocol, np.random.default_rng(1), max(found, key=len))
    assert (image.astype(int) - without > 300).sum() > 3
    assert np.array_equal(body.labels, before)


def test_an_implant_needs_its_site_in_the_scan() -> None:
    for kind in IMPLANTS:
        assert draw_implant(uniform_body(Tissue.FAT), LATTICE, kind, np.random.default_rng(0)) == []


def test_calcium_sits_on_vessels_and_valves() -> None:
    body = small_chest()
    found = [draw_calcium(body, LATTICE, replace(PLAIN, calcium=True), np.random.default_rng(s)) for s in range(8)]
    grains = [one for many in found for one in many]
    near = ndimage.binary_dilation(np.isin(body.tissue, [1, 2, 6, Tissue.CORONARY_ARTERY]), iterations=3)
    assert grains
    assert all(near[tuple(one.where.T)].mean() > 0.7 for one in grains)


def test_contrast_is_unmixed_in_the_right_heart_only() -> None:
    protocol = replace(PLAIN, phase="dual", left_hu=350, right_hu=400, superior_cava_hu=1200, mixing=0.8, noise_hu=2)
    body = small_chest()
    inside = {code: ndimage.binary_erosion(body.labels == code, iterations=1) for code in (Tissue.RA, Tissue.LV)}
    images = [scan(body, LATTICE, protocol, np.random.default_rng(seed)).astype(float) for seed in range(5)]
    spread = {code: np.median([image[mask].std() for image in images]) for code, mask in inside.items()}
    assert spread[Tissue.RA] > 2 * spread[Tissue.LV]
    assert images[0][inside[Tissue.LV]].mean() == pytest.approx(350, abs=40)


def test_the_tip_of_a_slow_appendage_is_darker() -> None:
    body = small_chest()
    protocol = replace(PLAIN, phase="arterial", left_hu=400, tip_filling=0.1, noise_hu=1)
    image = scan(body, LATTICE, protocol, np.random.default_rng(2)).astype(float)
    away = np.argwhere(body.labels == Tissue.LAA)
    order = np.argsort(away[:, 0])  # the atrium lies towards higher x
    tip, ostium = away[order[:40]], away[order[-40:]]
    assert image[tuple(tip.T)].mean() < image[tuple(ostium.T)].mean() - 60


def test_dense_blood_streams_through_the_right_atrium_above_clear_blood() -> None:
    """The stream has the cava's brightness, and the floor of the atrium the darkness of blood from below."""
    body = small_chest()
    protocol = replace(PLAIN, phase="dual", left_hu=300, right_hu=250, superior_cava_hu=900, mixing=0.5, noise_hu=1)
    at = np.argwhere(body.labels == Tissue.RA)
    roof, floor = at[at[:, 2] > np.quantile(at[:, 2], 0.8)], at[at[:, 2] < np.quantile(at[:, 2], 0.2)]
    brightest, differences = {}, []
    for stream in (0.0, 1.0):
        images = [scan(body, LATTICE, replace(protocol, stream=stream), np.random.default_rng(n)) for n in range(6)]
        brightest[stream] = np.mean([np.quantile(image[tuple(at.T)], 0.95) for image in images])
        differences.append(np.mean([image[tuple(roof.T)].mean() - image[tuple(floor.T)].mean() for image in images]))
    assert brightest[1.0] > brightest[0.0] + 100
    assert differences[1] > 50
    drawn = [draw_protocol(np.random.default_rng(n)) for n in range(300)]
    assert 0.45 < np.mean([one.stream > 0 for one in drawn if one.phase in ("arterial", "dual")]) < 0.65
    assert not any(one.stream for one in drawn if one.phase in ("venous", "none"))


def test_sharp_kernels_give_scans_as_noisy_as_real_ones() -> None:
    """A share of scans has a lung kernel; their noise includes the 88 HU of a real scan in slices of 2.5 mm."""
    rng = np.random.default_rng(9)
    drawn = [draw_protocol(rng) for _ in range(800)]
    sharp = [one for one in drawn if one.sharp]
    assert 0.06 < len(sharp) / len(drawn) < 0.2
    noise = [one.noise_hu for one in sharp]
    assert np.quantile(noise, 0.25) < 60 < np.quantile(noise, 0.9)
    assert np.mean(noise) > 2 * np.mean([one.noise_hu for one in drawn if not one.sharp])
    assert np.mean([one.edge for one in sharp]) > 0.7


@pytest.mark.parametrize(("kind", "reached"), [("central", {"CAVA"}), ("pulmonary", {"CAVA", "RA", "RV", "PA"})])
def test_catheters_run_through_the_right_heart(kind: str, reached: set[str]) -> None:
    body = small_chest()
    body.labels[30:36, 34:40, 26:32] = body.tissue[30:36, 34:40, 26:32] = Tissue.PA
    (catheter,) = draw_catheter(body, LATTICE, kind, np.random.default_rng(2))
    crossed = {Tissue(code).name for code in np.unique(body.tissue[tuple(catheter.where.T)])}
    assert crossed >= reached
    assert 100 < catheter.hu <= 1200
    assert not draw_catheter(body, LATTICE, "none", np.random.default_rng(2))


def test_appendages_are_half_filled_in_a_share_of_the_scans_with_contrast() -> None:
    rng = np.random.default_rng(8)
    drawn = [draw_protocol(rng) for _ in range(600)]
    late = {phase: np.mean([one.tip_filling < 1.0 for one in drawn if one.phase == phase]) for phase in PHASES}
    assert 0.25 < late["arterial"] < 0.45
    assert 0.1 < late["dual"] < 0.3
    assert late["venous"] == late["none"] == 0.0
    equal = [abs(one.superior_cava_hu / one.left_hu - 1) < 0.25 for one in drawn if one.phase == "arterial"]
    assert np.mean(equal) > 0.12  # a cava as bright as the aorta


def test_every_tissue_has_a_look() -> None:
    for appearance in RANGES:
        mean, _ = draw_means(ScanProtocol(appearance=appearance), RANGES[appearance], np.random.default_rng(0))
        assert all(mean[tissue] != 0.0 for tissue in Tissue)


def test_protocols_are_varied_and_can_be_recorded() -> None:
    for appearance in RANGES:
        rng = np.random.default_rng(0)
        drawn = [draw_protocol(rng, appearance) for _ in range(400)]
        assert {one.site for one in drawn} == set(SITES) == set(SCANNER_STYLES)
        assert {one.phase for one in drawn} == set(PHASES)
        assert {one.implant for one in drawn} == set(IMPLANTS)
        assert all(0.5 <= one.slice_mm <= 5.0 for one in drawn)
        assert ScanProtocol(**json.loads(json.dumps(asdict(drawn[0])))) == drawn[0]


def test_randomised_scans_go_beyond_realistic_ones_but_keep_the_wall_apart_from_its_blood() -> None:
    rng = np.random.default_rng(4)
    wild = [draw_protocol(rng, "randomised") for _ in range(500)]
    tame = [draw_protocol(rng, "realistic") for _ in range(500)]
    apart = np.mean([abs(one.left_hu - one.myocardium_hu) >= 25 for one in wild])
    assert 0.8 < apart < 0.95
    assert np.corrcoef([one.left_hu for one in wild], [one.right_hu for one in wild])[0, 1] < 0.5
    loud, quiet = (np.quantile([one.noise_hu for one in drawn if not one.sharp], 0.98) for drawn in (wild, tame))
    assert loud > 1.4 * quiet
    assert np.std([one.myocardium_hu for one in wild]) > 2 * np.std([one.myocardium_hu for one in tame])
    assert all(one.myocardium_hu < one.left_hu for one in tame if one.phase == "arterial")


def test_the_same_draw_gives_the_same_image() -> None:
    body, protocol = small_chest(), draw_protocol(np.random.default_rng(5), "randomised")
    first, second = (scan(body, LATTICE, protocol, np.random.default_rng(6)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.dtype == np.int16
    assert first.min() >= -1024
