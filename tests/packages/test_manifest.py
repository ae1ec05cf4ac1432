"""The manifest: its schema, the records of generators, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.manifest import MANIFEST, manifest_schema
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.weights import verify_package
from tests.support.generator_package import write_tiny_generator
from tests.support.package_attacks import (
    Attack,
    edit,
    set_both,
    set_generator,
    set_manifest,
    set_network,
    set_sampling,
    set_step,
    spec,
)

SCHEMA = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


# --- the schema -------------------------------------------------------------------------------------------------------


def test_schema_in_docs_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == manifest_schema(), (
        "update it: python -m CardiacLDMLib.packages.manifest > docs/manifest.schema.json"
    )


def test_schema_agrees_with_a_written_manifest(tiny: Path) -> None:
    manifest = json.loads((tiny / MANIFEST).read_text())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)
    validator.validate(manifest)
    spec(manifest)["arguments"]["channels"] = [10**9, 8]
    assert not validator.is_valid(manifest)


def test_a_segmenters_manifest_has_no_entry_of_generators(tiny: Path, tiny_generator: Path) -> None:
    assert "generator" not in json.loads((tiny / MANIFEST).read_text())
    manifest = json.loads((tiny_generator / MANIFEST).read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(manifest)
    assert list(manifest["generator"]["choices"]) == ["sex", "implant"]  # the network's order


# --- generators -------------------------------------------------------------------------------------------------------


def as_labelling(folder: Path) -> None:
    unet = {"architecture": "unet", "arguments": {"channels": [4, 8], "strides": [2]}}
    edit(folder, lambda m: m["networks"]["autoencoder"].update(unet))


def prior_for_ddpm(folder: Path) -> None:
    set_sampling(schedule="ddpm", solver="ddim")(folder)
    prior = {"prior_modes": 2, "latent_shape": [4, 4, 4]}
    edit(folder, lambda m: m["networks"]["diffusion"]["arguments"].update(prior))


GENERATOR_ATTACKS: dict[str, tuple[Attack, str]] = {
    "nothing said": (set_manifest(generator=None), "entry generator"),
    "unknown schedule": (set_sampling(schedule="cosine"), "generator.sampling.schedule"),
    "solver of another schedule": (set_sampling(solver="ddim"), "ddim"),
    "scale zero": (set_generator(latent_scale=[1, 1, 0, 1]), "generator.latent_scale.2"),
    "shift no number": (set_generator(latent_shift=[0, 0, 0, float("inf")]), "generator.latent_shift.3"),
    "shift too short": (set_generator(latent_shift=[0, 0, 0]), "latent_shift"),
    "latents too few": (set_generator(latent_shift=[0], latent_scale=[1]), "latent channels"),
    "chances for another": (set_generator(chances={"sex": [0.5, 0.3, 0.2]}), "chances of sex"),
    "chances for nothing": (set_generator(chances={"weight": [1.0]}), "chances of weight"),
    "no chance at all": (set_generator(chances={"sex": [0.0, 0.0]}), "chances of sex"),
    "value twice": (set_generator(choices={"sex": ["female"] * 2, "implant": ["none", "leads"]}), "twice"),
    "value too many": (set_generator(choices={"sex": ["a", "b", "c"], "implant": ["none", "leads"]}), "choices"),
    "choice too few": (set_generator(choices={"sex": ["female", "male"]}), "choices"),
    "number too many": (set_generator(numbers={"a": [0, 1], "b": [0, 1], "c": [0, 1]}), "numbers"),
    "range upside down": (set_generator(numbers={"a": [1, 0], "b": [0, 1]}), "condition a"),
    "choice and number": (set_generator(numbers={"sex": [0, 1], "b": [0, 1]}), "choice and a number"),
    "internal_conditions without being there": (set_generator(internal_conditions=["weather"]), "weather"),
    "name with markup": (set_generator(numbers={"<b>": [0, 1], "b": [0, 1]}), "manifest.json, generator.numbers"),
    "steps without end": (set_sampling(steps=10**9), "generator.sampling.steps"),
    "shift of ddpm": (
        set_sampling(schedule="ddpm", solver="ddim", time_shift=3.0),
        "time_shift",
    ),
    "prior for ddpm": (prior_for_ddpm, "prior"),
    "restarts of ddpm": (
        set_sampling(schedule="ddpm", solver="ddim", restarts=[{"time": 0.5}]),
        "restarts",
    ),
    "restart at noise": (set_sampling(restarts=[{"time": 1.0}]), "generator.sampling.restarts.0"),
    "restarts without end": (set_sampling(restarts=[{"time": 0.5}] * 17), "generator.sampling.restarts"),
    "restart without a time": (set_sampling(restarts=[{"gains": [1.0] * 4}]), "generator.sampling.restarts.0.time"),
    "gains of some channels": (
        set_sampling(restarts=[{"time": 0.5, "gains": [1.0]}]), "latent channel",
    ),
    "gain of nothing": (set_sampling(restarts=[{"time": 0.5, "gains": [0.0] * 4}]), "sampling.restarts.0.gains"),
    "smoothing of nothing": (set_step("smooth_latents", widths=[0.0, 1.0]), "widths.0"),
    "deblocking of nothing": (set_step("deblock", width_hu=0.0), "width_hu"),
    "one smoothing": (set_step("smooth_latents", widths=[1.0]), "widths.1"),
    "unknown step": (set_step("sharpen", width_hu=9.0), "generator.postprocess.0"),
    "steps out of order": (
        set_generator(postprocess=[{"step": "deblock", "width_hu": 9.0}, {"step": "smooth_latents", "widths": [1, 1]}]),
        "postprocess",
    ),
    "shift below one": (set_sampling(time_shift=0.5), "generator.sampling.time_shift"),
    "texture of bone": (set_step("texture", spectra={"bone": [1.0] * 14}), "spectra.bone"),
    "texture too short": (set_step("texture", spectra={"fat": [1.0] * 13}), "'fat'"),
    "texture without end": (set_step("texture", spectra={"fat": [1e9] * 14}), "'fat'"),
    "tone that falls": (set_step("tone", curve=[[0.0, 0.0], [9.0, -9.0]]), "knots"),
    "tone that stands still": (set_step("tone", curve=[[0.0, 0.0], [0.0, 9.0]]), "knots"),
    "tone of no scan": (set_step("tone", curve=[[0.0, 1e9]]), "5000 HU"),
    "tone of too many knots": (set_step("tone", curve=[[float(n)] * 2 for n in range(65)]), "64 knots"),
    "unknown entry": (set_sampling(guidance_scale=2.0), "generator.sampling.guidance_scale"),
    "networks on two grids": (set_network("diffusion", patch=[16, 16, 32]), "patch"),
    "networks at two spacings": (set_network("diffusion", spacing_mm=2.0), "spacing_mm"),
    "autoencoder that labels": (as_labelling, "unet"),
    "grid that does not divide": (set_both(patch=[18, 16, 16]), "18 x 16 x 16"),
}  # fmt: skip


DECODER_ATTACKS: dict[str, tuple[Attack, str]] = {
    "voxels as large as before": (set_network("decoder", spacing_mm=8.0), "twice the voxels"),
    "grid as before": (set_network("decoder", patch=[16, 16, 16]), "twice the voxels"),
    "another window": (set_network("decoder", window_hu=[-1000.0, 3000.0]), "twice the voxels"),
    "other latents": (
        set_network("decoder", arguments={"latent_channels": 3, "channels": [8, 8, 8, 8]}), "autoencoder and decoder",
    ),
    "blocks smoothed": (set_step("deblock", width_hu=60.0), "deblock"),
    "decoder that draws": (set_network("decoder", architecture="unet", arguments={"channels": [4, 8], "strides": [2]}),
                           "unet"),
}  # fmt: skip


@pytest.mark.parametrize("attack", DECODER_ATTACKS)
def test_attack_on_a_fine_decoder(attack: str, tmp_path: Path) -> None:
    change, fact = DECODER_ATTACKS[attack]
    copy = write_tiny_generator(tmp_path / "tiny-generator", fine=True)
    verify_package(copy)
    change(copy)
    with pytest.raises(PackageError) as caught:
        verify_package(copy)
    assert fact in str(caught.value)


@pytest.mark.parametrize("attack", GENERATOR_ATTACKS)
def test_attack_on_a_generator(attack: str, tiny_generator: Path, tmp_path: Path) -> None:
    change, fact = GENERATOR_ATTACKS[attack]
    copy = Path(shutil.copytree(tiny_generator, tmp_path / "tiny-generator"))
    change(copy)
    with pytest.raises(PackageError) as caught:
        verify_package(copy)
    assert fact in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_segmenter_with_a_generators_entry_is_refused(copy: Path, tiny_generator: Path) -> None:
    entry = json.loads((tiny_generator / MANIFEST).read_text())["generator"]
    set_manifest(generator=entry)(copy)
    with pytest.raises(PackageError, match="entry generator"):
        open_package(copy)
    autoencoder = json.loads((tiny_generator / MANIFEST).read_text())["networks"]["autoencoder"]
    labelling = {name: {**autoencoder, "weights": f"{name}.safetensors"} for name in ("locator", "segmenter")}
    edit(copy, lambda m: (m.pop("generator"), m.update(networks=labelling)))
    with pytest.raises(PackageError, match=r"joint_autoencoder.*locator"):
        open_package(copy)


# --- imports -------------------------------------------------------------------------------------------------------


def test_the_manifest_loads_no_torch_and_no_higher_room() -> None:
    """In a new interpreter, since this one has loaded everything."""
    code = (
        "import sys; import CardiacLDMLib.packages.manifest;"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('CardiacLDMLib.')};"
        "print(sorted({'torch', 'monai', 'SimpleITK', 'cc3d'} & loaded),"
        " sorted({'results', 'segmentation', 'generation', 'review', 'worker', 'slicer'} & rooms))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "[]"]
