"""Manifests of schema 1 are read as schema 2; what schema 1 did not allow stays refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.generator_spec import GeneratorSpec
from CardiacLDMLib.packages.manifest import MANIFEST
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.upgrade import SCHEMA_VERSION, upgrade
from CardiacLDMLib.postprocess.texture import Texture
from tests.support.generator_package import write_tiny_generator
from tests.support.package import write_tiny_package

#: The entry ``generator`` of virtual-pairs-v1 1.6.0, the last package of schema 1.
FLAT = json.loads(Path(__file__).with_name("generator_schema_1.json").read_text())


def schema_1(folder: Path, **generator: Any) -> Path:
    """Turn the manifest in ``folder`` into one of schema 1; ``generator`` are its flat fields."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["schema_version"] = 1
    if "generator" in manifest:
        nested = {"sampling", "postprocess"}
        kept = {name: value for name, value in manifest["generator"].items() if name not in nested}
        manifest["generator"] = {**kept, "schedule": "rectified_flow", **generator}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_the_last_generator_of_schema_1_keeps_its_sampling_and_its_steps() -> None:
    before = {"schema_version": 1, "kind": "generator", "generator": FLAT}
    untouched = copy.deepcopy(before)
    after = upgrade(before)
    spec = GeneratorSpec.model_validate(after["generator"])
    assert [restart.time for restart in spec.sampling.restarts] == FLAT["restarts"]
    assert [list(restart.gains) for restart in spec.sampling.restarts] == FLAT["restart_gains"]
    assert spec.sampling.time_shift == FLAT["time_shift"]
    assert [step.step for step in spec.postprocess] == ["smooth_latents", "deblock", "tone", "texture"]
    assert spec.postprocess[3] == Texture(spectra=FLAT["texture"])
    assert before == untouched
    now = {**after, "schema_version": SCHEMA_VERSION}
    assert upgrade(now) is now


def test_a_segmenter_of_schema_1_opens(tmp_path: Path) -> None:
    folder = write_tiny_package(tmp_path / "tiny")
    now = open_package(folder).manifest
    assert open_package(schema_1(folder)).manifest == now


def test_a_generator_of_schema_1_opens_with_its_defaults(tmp_path: Path) -> None:
    spec = open_package(schema_1(write_tiny_generator(tmp_path / "old"))).manifest.generator
    assert spec is not None
    assert (spec.sampling.schedule, spec.sampling.solver, spec.sampling.steps) == ("rectified_flow", "euler", 20)
    assert (spec.sampling.guidance, spec.sampling.time_shift) == (1.5, 1.0)
    assert (spec.sampling.restarts, spec.postprocess) == ((), ())


def test_empty_corrections_are_no_steps(tmp_path: Path) -> None:
    empty = {
        "restarts": [0.5],
        "restart_gains": [],
        "smoothing": None,
        "deblocking_hu": None,
        "tone": [],
        "texture": {},
    }
    spec = open_package(schema_1(write_tiny_generator(tmp_path / "old"), **empty)).manifest.generator
    assert spec is not None
    assert [(again.time, again.gains) for again in spec.sampling.restarts] == [(0.5, ())]
    assert spec.postprocess == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "cosine"}, {"solver": "ddim"}, {"steps": 0}, {"restarts": 0.5}, {"restarts": [1.0]},
        {"restarts": [0.5], "restart_gains": [[1.0] * 4] * 2}, {"restart_gains": [[1.0] * 4]},
        {"restarts": [0.5], "restart_gains": [[1.0]]}, {"restarts": [0.5], "restart_gains": {"a": 1}},
        {"smoothing": [1.0]}, {"deblocking_hu": 0}, {"tone": [[0.0, 9.0], [1.0, 0.0]]}, {"texture": {"bone": [1.0]}},
        {"texture": 3}, {"sharpen": True},
    ],
)  # fmt: skip
def test_what_schema_1_refused_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    folder = schema_1(write_tiny_generator(tmp_path / "old"), **wrong)
    with pytest.raises(PackageError):
        open_package(folder)
