"""The shipped generator is complete and small; its pairs are plausible and follow conditions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from CardiacLDMLib.anatomy import NAMES, VALUE
from CardiacLDMLib.generation.acceptance import Judge, generate_accepted
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.packages.store import DEFAULT_GENERATOR, find_package
from CardiacLDMLib.packages.weights import verify_package
from CardiacLDMLib.segmentation.segmenter import Segmenter


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(find_package(DEFAULT_GENERATOR), "cpu")


def test_it_is_complete_and_small() -> None:
    package = verify_package(find_package(DEFAULT_GENERATOR).folder)
    assert package.size_bytes < 30e6
    assert "not a medical device" in package.manifest.intended_use.lower()
    assert package.manifest.figures
    assert package.manifest.generator is not None
    assert set(package.manifest.generator.user_choices) == {"contrast_phase"}  # pairs follow no other


def test_a_pair_is_accepted_and_looks_like_a_chest(generator: Generator) -> None:
    pair = generate_accepted(generator, Judge(Segmenter(find_package(), "cpu")), seed=1, index=0)
    assert pair.provenance["acceptance"]["agreement"] >= 0.75
    assert pair.image.array.shape == (128, 128, 96)
    assert set(np.unique(pair.labels.array)) == {0, *(VALUE[name] for name in NAMES)}
    air, soft = pair.image.array < -600, np.abs(pair.image.array) < 300
    assert 0.05 < air.mean() < 0.7  # lungs
    assert soft.mean() > 0.25


def test_it_is_the_default_of_generate(tmp_path: Path) -> None:
    options = ("--count", 1, "--seed", 3, "--steps", 2, "--no-check", "--device", "cpu", "--out", tmp_path / "pairs")
    done = CliRunner().invoke(app, ["generate", *map(str, options)])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "pairs" / "pair_0000" / "provenance.json").read_text())
    assert record["package"]["name"] == DEFAULT_GENERATOR
    assert record["synthetic"]


def test_contrast_follows_the_condition(generator: Generator) -> None:
    """The same noise with and without contrast: blood of the left ventricle is brighter."""
    hu = {}
    for phase in ("arterial", "none"):
        pair = generator.generate(1, 0, {"contrast_phase": phase}, steps=4)
        hu[phase] = float(np.median(pair.image.array[pair.labels.array == VALUE["LV"]]))
    assert hu["arterial"] > hu["none"] + 100
