"""Fine-tuning: the encoder of a pre-training is kept, generated pairs are mixed in, and the package says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cardiacldm_training.cases import store
from cardiacldm_training.errors import ConfigError
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import config, loop, pretrain, run_folder, segmenter, transfer
from cardiacldm_training.stages.masking import BlockMask
from tests.support.training import TINY, facts, prepare, tiny_network, write_cases


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> store.Prepared:
    return prepare(write_cases(tmp_path_factory.mktemp("data") / "real", 3))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> store.Prepared:
    return prepare(write_cases(tmp_path_factory.mktemp("pairs") / "generated", 2))


@pytest.fixture(scope="module")
def encoder(pairs: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> pretrain.Encoder:
    network = config.PretrainConfig(
        architecture="unet", arguments=TINY, spacing_mm=6.0, patch=(16, 16, 16), steps=3, validate_every=3, patience=9,
        warmup_steps=1, mask=BlockMask(side=4),
    )  # fmt: skip
    run = tmp_path_factory.mktemp("runs") / "pretraining"
    settings = config.RunConfig(preset="test", data=facts(pairs), model=config.PretrainingModel(network=network))
    pretrain.train_pretraining(run, settings, pairs, resume=False, workers=0, say=lambda line: None)
    return pretrain.read_encoder(run)


def run_config(prepared: store.Prepared, pairs: store.Prepared | None = None, **changes: object) -> config.RunConfig:
    network = tiny_network(steps=6, validate_every=6, save_every=2, **changes)
    data = facts(prepared)
    if pairs:
        mix = config.MixFacts(package="pairs 1", cases=len(pairs.cases), digest=pairs.digest, share=3.0)
        data = data.model_copy(update={"mix": mix})
    return config.RunConfig(
        preset="test", seed=3, data=data, model=config.SegmenterModel(locator=tiny_network(), segmenter=network)
    )


def train(run: Path, settings: config.RunConfig, prepared: store.Prepared, **ingredients: object) -> dict:
    torch.set_num_threads(1)
    segmenter.train_segmenter(
        run, settings, {"segmenter": prepared}, ["segmenter"], resume=False, workers=0, say=lambda line: None,
        **ingredients,
    )  # fmt: skip
    return run_folder.load_checkpoint(run / "segmenter" / run_folder.LAST)


def test_a_frozen_encoder_stays_and_the_decoder_learns(
    prepared: store.Prepared, encoder: pretrain.Encoder, tmp_path: Path
) -> None:
    frozen = train(tmp_path / "frozen", run_config(prepared, frozen_steps=6), prepared, encoder=encoder)
    network = segmenter.build_network("unet", TINY)
    names = transfer.encoder_names("unet", network)
    assert all(torch.equal(frozen["network"][name], encoder.weights[name]) for name in names)
    free = train(tmp_path / "free", run_config(prepared, frozen_steps=3), prepared, encoder=encoder)
    assert any(not torch.equal(free["network"][name], encoder.weights[name]) for name in names)
    torch.manual_seed(3)
    fresh = segmenter.build_network("unet", TINY).state_dict()
    others = [name for name in fresh if name not in names and name.endswith("conv.weight")]
    assert all(not torch.equal(frozen["network"][name], fresh[name]) for name in others)


def test_the_encoder_learns_at_its_own_rate() -> None:
    slow = loop.Slow(frozenset({"a"}), rate=0.1, frozen_steps=5)
    assert [slow.factor(step) for step in (0, 4, 5, 100)] == [0.0, 0.0, 0.1, 0.1]


def test_the_encoder_of_another_network_or_grid_is_refused(
    prepared: store.Prepared, encoder: pretrain.Encoder, tmp_path: Path
) -> None:
    for changes, fact in (
        ({"spacing_mm": 3.0}, "3.0"), ({"window_hu": (-100.0, 500.0)}, "window_hu"),
        ({"arguments": {**TINY, "channels": [4, 16]}}, "unet"),
        ({"architecture": "dynunet", "arguments": {"filters": [4, 8, 8], "strides": [1, 2, 2]}}, "dynunet"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=fact):
            train(tmp_path / fact, run_config(prepared, **changes), prepared, encoder=encoder)


def test_pairs_are_mixed_into_training_and_not_into_validation(
    prepared: store.Prepared, pairs: store.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[segmenter.SegmentationStage] = []
    original = loop.train_network
    monkeypatch.setattr(loop, "train_network", lambda *a, **k: (stages.append(a[3]), original(*a, **k))[1])
    train(tmp_path / "run", run_config(prepared, pairs), prepared, pairs=pairs)
    (stage,) = stages
    assert [group.share for group in stage.train.groups] == [1.0, 3.0]
    assert stage.train.groups[1].cases == pairs.cases
    assert {case.name for case in stage.held_out} <= {case.name for case in prepared.cases}
    stored = run_folder.read_config(tmp_path / "run")
    assert stored.data.mix is not None
    assert (stored.data.mix.package, stored.data.mix.digest) == ("pairs 1", pairs.digest)
    with pytest.raises(ConfigError, match="mix"):
        run_folder.check_run(tmp_path / "run", run_config(prepared), ["segmenter"], resume=True)


def test_the_package_says_what_went_in(
    prepared: store.Prepared, pairs: store.Prepared, encoder: pretrain.Encoder, tmp_path: Path
) -> None:
    settings = run_config(prepared, pairs).model_copy(update={"encoder": encoder.record})
    locator = tiny_network(steps=2, validate_every=2)
    settings = settings.model_copy(update={"model": settings.segmenter.model_copy(update={"locator": locator})})
    segmenter.train_segmenter(
        tmp_path / "run", settings, {"segmenter": prepared, "locator": prepared}, config.SEGMENTER_NETWORKS,
        resume=False, workers=0, encoder=encoder, pairs=pairs, say=lambda line: None,
    )  # fmt: skip
    package = export_run(tmp_path / "run", tmp_path / "mixed", "mixed")
    stored = package.manifest.training.configuration
    assert stored["data"]["mix"]["digest"] == pairs.digest
    assert stored["encoder"] == encoder.record
    card = (package.folder / "README.md").read_text(encoding="utf-8")
    for fact in (pairs.digest[:16], prepared.digest[:16], "pairs 1", run_folder.weights_digest(encoder.weights)[:16]):
        assert fact in card
