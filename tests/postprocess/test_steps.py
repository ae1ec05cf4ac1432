"""The closed list of post-processing steps: each is read from JSON, describes itself and needs no torch to be read."""

from __future__ import annotations

import subprocess
import sys
import typing

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from CardiacLDMLib.postprocess.kinds import KINDS, HuStep, PostprocessStep
from CardiacLDMLib.postprocess.steps import Step
from CardiacLDMLib.postprocess.texture import BINS

EXAMPLES: dict[str, dict[str, object]] = {
    "smooth_latents": {"widths": [1.2, 0.7]},
    "deblock": {"width_hu": 60.0},
    "tone": {"curve": [[-500.0, -600.0], [100.0, 200.0]]},
    "texture": {"spectra": {"soft": [100.0] * BINS}},
}
READER: TypeAdapter[PostprocessStep] = TypeAdapter(Step)


def read(step: str) -> PostprocessStep:
    return READER.validate_python({"step": step, **EXAMPLES[step]})


def test_every_step_has_an_example_here() -> None:
    union = typing.get_args(typing.get_args(Step)[0])
    assert {kind.model_fields["step"].default for kind in union} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_step_is_read_written_and_described(name: str) -> None:
    step = read(name)
    assert READER.validate_json(step.model_dump_json(), strict=True) == step
    assert sum(isinstance(step, kind) for kind in KINDS) == 1
    sentence = step.describe()
    assert sentence.endswith(".")
    assert sentence.isprintable()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_step_refuses_unknown_settings(name: str) -> None:
    with pytest.raises(ValidationError):
        READER.validate_python({"step": name, **EXAMPLES[name], "strength": 1.0})


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(ValidationError):
        READER.validate_python({"step": "sharpen"})


@pytest.mark.parametrize("name", ["tone", "texture"])
def test_a_step_on_hu_leaves_its_inputs_alone(name: str) -> None:
    step = read(name)
    assert isinstance(step, HuStep)
    hu, labels = np.full((12, 12, 12), 50.0, np.float32), np.zeros((12, 12, 12), np.uint8)
    out = step.apply(hu, labels, 3.0, np.random.default_rng(1))
    assert (out.dtype, out.shape) == (np.float32, hu.shape)
    assert not np.array_equal(out, hu)
    assert (hu == 50).all()


def test_reading_a_step_needs_no_torch() -> None:
    code = "import sys; import CardiacLDMLib.postprocess.steps; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
