"""The configuration of a run: one record for segmenters and generators, differences named by field."""

from __future__ import annotations

import pytest

from cardiacldm_training.errors import ConfigError
from cardiacldm_training.stages import generator_presets, presets
from cardiacldm_training.stages.config import NETWORKS, DataFacts, RunConfig, check_same, stream

FACTS = DataFacts(cases=9, digest="x")


def test_a_run_has_one_kind_of_model() -> None:
    segmenter, generator = presets.segmenter_config("demo", FACTS), generator_presets.generator_config("demo", FACTS)
    assert segmenter.segmenter.network("locator") == segmenter.segmenter.locator
    assert generator.generator.latent_shape == (48, 16, 16, 12)
    with pytest.raises(ConfigError, match="segmenter"):
        _ = segmenter.generator
    with pytest.raises(ConfigError, match="generator"):
        _ = generator.segmenter


@pytest.mark.parametrize("changes", [{"seed": 1}, {"precision": "bf16-mixed"}, {"data": {"cases": 9, "digest": "y"}}])
def test_the_first_field_that_differs_is_named(changes: dict[str, object]) -> None:
    run = presets.segmenter_config("demo", FACTS)
    other = RunConfig.model_validate({**run.model_dump(), **changes})
    check_same(run, run)
    with pytest.raises(ConfigError, match=r"data\.digest" if "data" in changes else next(iter(changes))):
        check_same(run, other)


def test_every_network_has_its_own_random_streams() -> None:
    """Other numbers would change the training of every seed."""
    assert [stream(name) for name in NETWORKS] == [0, 1, 2, 3, 4, 5]
    assert NETWORKS == ("locator", "segmenter", "autoencoder", "diffusion", "pretrain", "decoder")
