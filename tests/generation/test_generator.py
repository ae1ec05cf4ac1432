"""Generating pairs: the result, the same bits for the same numbers, conditions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CardiacLDMLib.errors import DeviceError, GeneratorError, MemoryShortage, PackageError
from CardiacLDMLib.generation.generator import Generator, Pair
from CardiacLDMLib.generation.settings import check_settings, scale_number
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.postprocess import texture, tone
from CardiacLDMLib.progress import STAGES, Cancelled, Progress
from CardiacLDMLib.segmentation.cleanup import clean
from tests.support.generator_package import GRID, SPACING_MM, tiny_generator_spec, write_tiny_generator
from tests.support.package import write_tiny_package


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("packages") / "tiny-generator")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Generator:
    return Generator(open_package(folder), "cpu")


@pytest.fixture
def generator(shared: Generator, monkeypatch: pytest.MonkeyPatch) -> Generator:
    """Return the generator with parts that a test may replace."""
    for name in ("_denoiser", "_autoencoder"):
        monkeypatch.setattr(shared, name, getattr(shared, name))
    return shared


def with_step(folder: Path, step: str, **settings: Any) -> Generator:
    """Return the generator of ``shared`` with one step of post-processing."""
    package = write_tiny_generator(folder, postprocess=[{"step": step, **settings}])
    return Generator(open_package(package), "cpu")


def same(one: Pair, other: Pair) -> bool:
    arrays = zip((one.image, one.labels), (other.image, other.labels), strict=True)
    return one.provenance == other.provenance and all(np.array_equal(a.array, b.array) for a, b in arrays)


# --- the result ----------------------------------------------------------------------------------------------------


def test_a_pair_is_a_ct_and_labels_on_one_centred_grid(generator: Generator) -> None:
    pair = generator.generate(7, 2, {"sex": "female", "spacing_mm": "2"})
    assert pair.image.array.shape == pair.labels.array.shape == GRID
    assert pair.image.array.dtype == np.int16
    assert pair.labels.array.dtype == np.uint8
    assert -1000 <= pair.image.array.min() < pair.image.array.max() <= 1000
    assert pair.labels.array.max() <= 8
    for volume in (pair.image, pair.labels):
        np.testing.assert_allclose(volume.spacing, SPACING_MM)
        np.testing.assert_allclose(volume.grid.bounds_ras().sum(axis=0), 0.0, atol=1e-9)
    record = pair.provenance
    assert record["synthetic"] is True
    assert record["package"]["sha256"] == generator.package.sha256
    assert (record["seed"], record["index"], record["attempt"]) == (7, 2, 0)
    assert record["conditions"] == {"sex": "female", "spacing_mm": 2.0}
    assert (record["steps"], record["solver"], record["guidance"]) == (3, "euler", 1.5)
    counted = np.bincount(pair.labels.array.ravel(), minlength=9)[2] * SPACING_MM**3 / 1000
    assert record["volumes_ml"]["LV"] == pytest.approx(counted, abs=0.01)
    assert json.loads(json.dumps(record)) == record


def test_latents_are_decoded_on_the_autoencoders_scale(generator: Generator) -> None:
    decoded: list[torch.Tensor] = []
    real = generator._autoencoder

    class Listening:
        def decode(self, z: torch.Tensor) -> Any:
            decoded.append(z)
            return real.decode(z)

    generator._autoencoder = Listening()
    generator._denoiser = lambda z, *_: torch.zeros_like(z)  # nothing moves: the noise is the result
    generator.generate(1, 0)
    from CardiacLDMLib.generation.sampler import noise

    z = noise(1, 0, 0, (1, 4, 4, 4, 4))
    for channel, (shift, scale) in enumerate(
        zip(generator.spec.latent_shift, generator.spec.latent_scale, strict=True)
    ):
        np.testing.assert_allclose(decoded[0][0, channel], z[0, channel] * scale + shift, rtol=1e-5, atol=1e-6)


def test_a_pair_has_its_labels_before_clean_up(generator: Generator) -> None:
    pair = generator.generate(7, 2)
    assert pair.raw_labels is not None
    assert np.array_equal(clean(pair.raw_labels.array, SPACING_MM**3 / 1000), pair.labels.array)
    changed = int((pair.raw_labels.array != pair.labels.array).sum())
    assert pair.provenance["repaired_voxels"] == changed > 0


def test_an_internal_condition_is_not_offered(tmp_path: Path) -> None:
    spec = tiny_generator_spec(internal_conditions=("implant", "weight_kg"), chances={"implant": [0.0, 1.0]})
    assert set(spec.conditions()) == {"sex", "spacing_mm"}
    for name, value in (("implant", "leads"), ("weight_kg", 70)):
        with pytest.raises(GeneratorError, match=name):
            check_settings(spec, {name: value})
    package = write_tiny_generator(tmp_path / "less", internal_conditions=("implant",), chances={"implant": [0.0, 1.0]})
    pair = Generator(open_package(package), "cpu").generate(1, 0)
    assert pair.provenance["drawn_conditions"] == {"implant": "leads"}  # the network needs it


def test_a_fine_decoder_draws_pairs_with_voxels_of_half_the_size(generator: Generator, tmp_path: Path) -> None:
    fine = Generator(open_package(write_tiny_generator(tmp_path / "fine", fine=True)), "cpu")
    previews: list[np.ndarray] = []
    pair = fine.generate(7, 2, steps=8, preview=lambda step, total, image: previews.append(image))
    again, other = fine.generate(7, 2, steps=8), fine.generate(7, 3, steps=8)
    assert same(pair, again)
    assert not np.array_equal(pair.image.array, other.image.array)
    assert pair.image.array.shape == tuple(2 * side for side in GRID)
    np.testing.assert_allclose(pair.labels.spacing, SPACING_MM / 2)
    coarse = generator.generate(7, 2).image
    np.testing.assert_allclose(pair.image.grid.bounds_ras(), coarse.grid.bounds_ras())
    assert [image.shape for image in previews] == [GRID[:2]]


def test_tiles_of_a_fine_decoder_have_the_noise_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Generator(open_package(write_tiny_generator(tmp_path / "fine", fine=True)), "cpu")
    whole = fine.generate(7, 2)
    real, calls = fine._decoder, []

    def full(z: torch.Tensor, noise: torch.Tensor) -> Any:
        calls.append(z.shape)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(z, noise)

    full.noise_channels = real.noise_channels  # type: ignore[attr-defined]
    monkeypatch.setattr(fine, "_decoder", full)
    tiled = fine.generate(7, 2)
    assert (whole.provenance["decoded"], tiled.provenance["decoded"]) == ("whole", "tiles")
    np.testing.assert_allclose(tiled.image.array, whole.image.array, atol=1)  # the only tile is the whole


def test_a_texture_step_adds_noise_and_is_recorded(generator: Generator, tmp_path: Path) -> None:
    spectra = {"soft": [400.0] * texture.BINS, "blood": [100.0] * texture.BINS}
    noisy = with_step(tmp_path / "noisy", "texture", spectra=spectra)
    plain, pair, again = generator.generate(1, 0), noisy.generate(1, 0), noisy.generate(1, 0)
    assert (plain.provenance["texture"], pair.provenance["texture"]) == (False, True)
    assert np.array_equal(pair.labels.array, plain.labels.array)
    assert same(pair, again)
    tissues = texture.tissue_map(plain.image.array, plain.labels.array)
    added = pair.image.array.astype(float) - plain.image.array
    inside = (np.abs(plain.image.array) < 900) & (tissues == 1)  # clear of the window's ends
    assert added[inside].std() == pytest.approx(10.0, rel=0.1)
    assert not added[tissues == 0].any()
    other = noisy.generate(1, 0, attempt=1).image.array - generator.generate(1, 0, attempt=1).image.array
    assert not np.array_equal(other, added)


def test_a_tone_step_changes_hu_away_from_the_labels(generator: Generator, tmp_path: Path) -> None:
    curve = [[-1000.0, -1000.0], [0.0, 0.0], [100.0, 200.0]]
    bright = with_step(tmp_path / "bright", "tone", curve=curve)
    plain, pair = generator.generate(1, 0), bright.generate(1, 0)
    assert (plain.provenance["tone"], pair.provenance["tone"]) == (False, True)
    assert np.array_equal(pair.labels.array, plain.labels.array)
    wanted = tone.apply_tone(plain.image.array, plain.labels.array, SPACING_MM, [(a, b) for a, b in curve])
    assert np.abs(pair.image.array - np.clip(wanted, -1000, 1000)).max() <= 2  # from HU before they were rounded
    assert (pair.image.array != plain.image.array).any()


def test_unset_conditions_are_sampled_from_their_frequency(generator: Generator, tmp_path: Path) -> None:
    chances = {"sex": [0.75, 0.25]}
    chancy = Generator(open_package(write_tiny_generator(tmp_path / "chancy", chances=chances)), "cpu")
    left, settings = [], check_settings(chancy.spec)
    for index in range(400):
        drawn = chancy.with_sampled_conditions(settings, 5, index, 0).conditions
        assert list(drawn) == ["sex"]  # what has no chances stays unknown
        left.append(drawn["sex"])
    assert left.count("female") / 400 == pytest.approx(0.75, abs=0.06)
    asked = check_settings(chancy.spec, {"sex": "male"})
    assert chancy.with_sampled_conditions(asked, 5, left.index("female"), 0) == asked
    by_chance, by_wish = chancy.generate(5, 0), generator.generate(5, 0, {"sex": left[0]})
    assert np.array_equal(by_chance.image.array, by_wish.image.array)
    assert by_chance.provenance["conditions"] == {}
    assert by_chance.provenance["drawn_conditions"] == {"sex": left[0]}
    assert by_wish.provenance["drawn_conditions"] == {}


def test_a_step_on_latents_changes_the_labels(generator: Generator, tmp_path: Path) -> None:
    smooth = with_step(tmp_path / "smooth", "smooth_latents", widths=(2.0, 2.0))
    assert not np.array_equal(smooth.generate(1, 0).labels.array, generator.generate(1, 0).labels.array)


def test_a_step_on_the_image_leaves_the_labels_alone(generator: Generator, tmp_path: Path) -> None:
    soft = with_step(tmp_path / "soft", "deblock", width_hu=60.0)
    one, other = soft.generate(1, 0), generator.generate(1, 0)
    assert np.array_equal(one.labels.array, other.labels.array)
    assert not np.array_equal(one.image.array, other.image.array)


# --- the same bits -------------------------------------------------------------------------------------------------


def test_the_same_numbers_give_the_same_pair_in_any_order_on_any_threads(generator: Generator) -> None:
    alone = generator.generate(3, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        several = [generator.generate(3, index) for index in (0, 2, 1)]
    finally:
        threads = torch.get_num_threads()
        torch.set_num_threads(before)
    assert same(several[1], alone)
    assert threads != before  # it left the setting as it was
    others = [several[0], several[2], generator.generate(4, 2), generator.generate(3, 2, attempt=1)]
    assert not any(np.array_equal(other.image.array, alone.image.array) for other in others)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_other_schedules_repeat_too(tmp_path: Path, solver: str) -> None:
    package = open_package(write_tiny_generator(tmp_path / "ddpm", sampling={"schedule": "ddpm", "solver": "ddim"}))
    generator = Generator(package, "cpu")
    assert same(generator.generate(1, 1, solver=solver), generator.generate(1, 1, solver=solver))


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_the_ablations_of_the_paper_generate_pairs(tmp_path: Path, solver: str) -> None:
    """Stems joined by concatenation, labels decoded as palette colours, the noise schedule of DDPM."""
    autoencoder = {"fusion": "concatenation", "labels_out": "palette"}
    sampling = {"schedule": "ddpm", "solver": solver}
    folder = write_tiny_generator(tmp_path / "paper", autoencoder=autoencoder, sampling=sampling)
    pair = Generator(open_package(folder), "cpu").generate(1, 0)
    assert pair.provenance["solver"] == solver
    assert pair.image.array.shape == pair.labels.array.shape == GRID
    assert len(np.unique(pair.labels.array)) > 1


def test_conditions_steps_guidance_and_solver_matter(generator: Generator) -> None:
    free = generator.generate(5, 0).image.array
    others = [
        generator.generate(5, 0, {"sex": "female"}), generator.generate(5, 0, {"sex": "male"}),
        generator.generate(5, 0, {"spacing_mm": 1.0}), generator.generate(5, 0, {"spacing_mm": 3.0}),
        generator.generate(5, 0, {"sex": "female"}, guidance=4.0), generator.generate(5, 0, steps=5),
        generator.generate(5, 0, solver="heun"),
    ]  # fmt: skip
    images = [free, *(pair.image.array for pair in others)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_conditions_reach_the_network_as_it_was_trained(generator: Generator) -> None:
    for value, limits, scaled in ((1.0, (1.0, 3.0), -1.0), (2.5, (1.0, 3.0), 0.5), (70.0, (70.0, 70.0), 0.0)):
        assert scale_number(value, *limits) == scaled
    choices, numbers = generator._inputs({"implant": "leads", "spacing_mm": 3.0})
    assert choices.tolist() == [[-1, 1]]
    assert numbers[0, 0] == 1.0
    assert numbers[0, 1].isnan()


# --- progress ------------------------------------------------------------------------------------------------------


def test_progress_and_previews(generator: Generator) -> None:
    steps: list[Progress] = []
    previews: list[tuple[int, int, np.ndarray]] = []
    pair = generator.generate(1, 0, steps=9, progress=steps.append, preview=lambda *step: previews.append(step))
    shares = [step.step for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == steps[-1].total == 100
    assert {step.stage for step in steps} <= set(STAGES)
    assert [(number, total) for number, total, _ in previews] == [(4, 9), (8, 9)]
    assert all(picture.shape == GRID[:2] and picture.dtype == np.int16 for _, _, picture in previews)
    assert same(pair, generator.generate(1, 0, steps=9))


def test_it_stops_between_two_steps(generator: Generator) -> None:
    steps: list[Progress] = []
    with pytest.raises(Cancelled):
        generator.generate(1, 0, steps=50, progress=steps.append, cancelled=lambda: len(steps) == 3)
    assert len(steps) == 3


# --- memory and bad weights ----------------------------------------------------------------------------------------


class Small:
    """An autoencoder on a GPU whose memory holds only half a side of the latents."""

    def __init__(self, real: Any, side: int, error: Exception) -> None:
        self.real, self.side, self.error = real, side, error

    def decode(self, z: torch.Tensor) -> Any:
        if max(z.shape[2:]) > self.side:
            raise self.error
        return self.real.decode(z)


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
    ids=lambda error: type(error).__name__,
)
def test_a_full_gpu_decodes_in_tiles(generator: Generator, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("CardiacLDMLib.generation.generator.TILE", 2)
    whole = generator.generate(2, 0)
    generator._autoencoder = Small(generator._autoencoder, 2, error)
    tiles = generator.generate(2, 0)
    assert (whole.provenance["decoded"], tiles.provenance["decoded"]) == ("whole", "tiles")
    assert tiles.image.array.shape == GRID
    generator._autoencoder.side = 1
    with pytest.raises(MemoryShortage, match="cpu"):
        generator.generate(2, 0)


def test_a_full_memory_is_a_generator_error(generator: Generator) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    generator._denoiser = full
    with pytest.raises(MemoryShortage):
        generator.generate(1, 0)


def test_weights_that_give_no_numbers_are_refused(generator: Generator) -> None:
    generator._denoiser = lambda z, *_: z * torch.nan
    with pytest.raises(GeneratorError, match="tiny-generator"):
        generator.generate(1, 0)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_segmenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="tiny"):
        Generator(open_package(write_tiny_package(tmp_path / "tiny")), "cpu")


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DeviceError):
        Generator(open_package(folder), "tpu")


@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        ({"conditions": {"age": "40"}}, "'age'.*sex, implant, spacing_mm, weight_kg"),
        ({"conditions": {"sex": "other"}}, "sex.*'other'.*female, male"),
        ({"conditions": {"sex": 1.0}}, "sex.*'1.0'"),
        ({"conditions": {"spacing_mm": 3.5}}, "spacing_mm.*1 to 3.*'3.5'"),
        ({"conditions": {"spacing_mm": "fine"}}, "'fine'"),
        ({"conditions": {"spacing_mm": "nan"}}, "'nan'"),
        ({"steps": 0}, "steps.*1 to 1000"),
        ({"steps": 1001}, "1001"),
        ({"guidance": -1.0}, "guidance.*0 to 20"),
        ({"guidance": float("nan")}, "guidance.*nan"),
        ({"solver": "ddim"}, "'ddim'.*euler.*heun"),
    ],
)
def test_what_the_package_does_not_know_is_refused(asked: dict[str, Any], facts: str) -> None:
    with pytest.raises(GeneratorError, match=facts):
        check_settings(tiny_generator_spec(), **asked)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (2**32, 0, 0), (0, -1, 0), (0, 0, 2**32)])
def test_numbers_beyond_the_seeding_are_refused(generator: Generator, numbers: tuple[int, int, int]) -> None:
    with pytest.raises(GeneratorError, match="4294967295"):
        generator.generate(numbers[0], numbers[1], attempt=numbers[2])
