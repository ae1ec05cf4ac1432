"""One pre-training or one run of an experiment: train, or continue from the last checkpoint, and test.

Each runs in a process of one core. ``until`` is a time (seconds since 1970) after which it stops with a checkpoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.networks.architectures import ARCHITECTURES
from CardiacLDMLib.networks.build import build_network, build_reconstructor, fits

from ...cases import store
from ...cases.mixture import Group, Mixture
from ...cases.split import split
from ...errors import EvaluationError
from ...stages import devices, loop, run_folder, transfer
from ...stages.config import NetworkConfig, PretrainConfig
from ...stages.pretrain import PretrainStage
from ...stages.segmenter import SegmentationStage
from ...stages.state import State
from ..metrics import score_labels
from .plan import Arm, Plan, Protocol
from .rows import Row, TestCase, file_name, write_row
from .sets import Sets

RUNS, PRETRAININGS = "runs", "pretrainings"
#: Part of a pre-training's images that is held out, as in Hu et al. 2024.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Experiment:
    """A plan, its prepared cases, the folder of its results, and the time until which to work."""

    plan: Plan
    sets: Sets
    out: Path
    until: float = math.inf

    def is_over(self) -> bool:
        """Return whether the time is up."""
        return time.time() >= self.until


def check_network(plan: Plan) -> None:
    """Raise :class:`EvaluationError` unless the plan's network exists and can label its patch."""
    network, works = plan.network, False
    reason = f"it cannot work on a patch of {' x '.join(map(str, network.patch))} voxels"
    known = ARCHITECTURES.get(network.architecture)
    if known and known.task != "segmentation":
        raise EvaluationError(f"The plan's network cannot be used: {network.architecture} does not label images.")
    with torch.device("meta"):
        try:
            module = build_network(network.architecture, network.arguments)
            works = fits(network.architecture, module, network.patch)
        except PackageError as error:
            reason = str(error)
        except (RuntimeError, ValueError):  # torch raises these for sizes that do not match
            works = False
    if not works:
        raise EvaluationError(f"The plan's network cannot be used: {reason}.")


# --- pre-training --------------------------------------------------------------------------------------------------


def pretrain(experiment: Experiment, name: str, seed: int) -> str | None:
    """Pre-train a network; return a line about it, or None if time was up. Raises TrainingError."""
    plan = experiment.plan
    pretraining, settings = plan.pretrainings[name], pretraining_config(plan, name)
    train, held_out = split(experiment.sets.cases[pretraining.images], _HELD_OUT)
    stage = PretrainStage(settings, seed=seed, train=train, held_out=held_out)
    torch.manual_seed(seed)
    network = build_reconstructor(settings.architecture, settings.arguments)
    state = _train(experiment, settings, network, stage, _pretraining_folder(experiment, name, seed), name)
    return f"{name}, seed {seed}: least error {-state.best:.5f}" if state.finished else None


def _pretraining_folder(experiment: Experiment, name: str, seed: int) -> Path:
    return experiment.out / PRETRAININGS / file_name(name, seed)


def pretraining_config(plan: Plan, name: str) -> PretrainConfig:
    """Return the settings of a pre-training."""
    pretraining, network = plan.pretrainings[name], plan.network
    every = max(pretraining.steps // pretraining.validations, 1)
    return PretrainConfig(
        architecture=network.architecture, arguments=network.arguments, spacing_mm=network.spacing_mm,
        patch=network.patch, mask=pretraining.mask, augment=network.augment, sampling=network.sampling,
        batch=network.batch, steps=pretraining.steps, validate_every=every, patience=pretraining.validations,
        learning_rate=network.learning_rate, warmup_steps=network.warmup_steps, ema_decay=network.ema_decay,
    )  # fmt: skip


# --- one run -------------------------------------------------------------------------------------------------------


def train_and_test(experiment: Experiment, protocol_name: str, arm_name: str, seed: int) -> Row | None:
    """Train and test one network and write its row; None if time was up. Raises TrainingError, EvaluationError."""
    plan, sets = experiment.plan, experiment.sets
    protocol, arm = plan.protocols[protocol_name], plan.arms[arm_name]
    cases = sets.first(arm.train, protocol.labels)
    groups = [Group("cases", cases)]
    if arm.mix is not None:
        pairs = sets.first([arm.mix], math.ceil(arm.share * len(cases)))
        groups.append(Group("pairs", pairs, arm.share))
    mixture = Mixture(groups)
    mixture.check_anatomy()
    settings = network_config(plan, protocol, len(mixture))
    stage = SegmentationStage("segmenter", settings, seed=seed, train=mixture, held_out=sets.cases[plan.validation])
    torch.manual_seed(seed)
    network = build_network(settings.architecture, settings.arguments)
    slow, before = _take_encoder(experiment, network, settings, arm, seed)
    folder = experiment.out / RUNS / file_name(protocol_name, arm_name, seed)
    state = _train(experiment, settings, network, stage, folder, arm_name, slow)
    if not state.finished:
        return None
    started = time.process_time()
    tests = {name: _test(stage, network, folder, sets.cases[name]) for name in plan.tests}
    row = Row(
        protocol=protocol_name, arm=arm_name, seed=seed, cases=len(cases), pairs=len(groups[-1].cases) * bool(arm.mix),
        updates=state.step, best_step=state.best_step, stopped_early=state.step < settings.steps,
        core_seconds=round(state.core_seconds, 1), test_core_seconds=round(time.process_time() - started, 1),
        pretraining_updates=before.step, pretraining_core_seconds=round(before.core_seconds, 1),
        curve=tuple((step, round(value, 5)) for step, value in state.curve), tests=tests,
    )  # fmt: skip
    write_row(row, experiment.out)
    return row


def network_config(plan: Plan, protocol: Protocol, cases: int) -> NetworkConfig:
    """Return the training settings of an arm with ``cases`` training cases and pairs under a protocol."""
    network = plan.network
    if protocol.steps is None:
        epoch = math.ceil(cases / network.batch)
        steps, every, patience = (protocol.epochs or 1) * epoch, epoch, protocol.patience
    else:
        steps, patience = protocol.steps, protocol.validations
        every = max(steps // protocol.validations, 1)
    return NetworkConfig(
        architecture=network.architecture, arguments=network.arguments, spacing_mm=network.spacing_mm,
        patch=network.patch, batch=network.batch, steps=steps, validate_every=every, patience=patience,
        validation_cases=protocol.validation_cases, learning_rate=network.learning_rate,
        warmup_steps=min(network.warmup_steps, steps // 10), ema_decay=network.ema_decay, sampling=network.sampling,
        augment=network.augment, encoder_rate=protocol.encoder_rate, frozen_steps=protocol.frozen_steps,
    )  # fmt: skip


def _take_encoder(
    experiment: Experiment, network: torch.nn.Module, settings: NetworkConfig, arm: Arm, seed: int
) -> tuple[loop.Slow | None, State]:
    """Give ``network`` the encoder of the arm's pre-training; return its slow parameters and where that ended."""
    if arm.pretraining is None:
        return None, State()
    folder = _pretraining_folder(experiment, arm.pretraining, seed)
    weights = run_folder.averaged_weights(folder / run_folder.BEST)
    slow = transfer.keep_encoder(network, settings, weights)
    return slow, run_folder.load_state(folder / run_folder.LAST)


def _train(
    experiment: Experiment, settings: NetworkConfig | PretrainConfig, network: torch.nn.Module, stage: loop.Stage,
    folder: Path, title: str, slow: loop.Slow | None = None,
) -> State:  # fmt: skip
    return loop.train_network(
        _fabric(), settings, network, stage, folder, title=title, resume=True, slow=slow, say=lambda line: None,
        stop=experiment.is_over,
    )  # fmt: skip


def _fabric() -> Fabric:
    return devices.launch(1, 1, "32-true")


def _test(
    stage: SegmentationStage, network: torch.nn.Module, folder: Path, cases: list[store.PreparedCase]
) -> tuple[TestCase, ...]:
    """Score the weights with the best validation on each case, in the box around its labels."""
    network.load_state_dict(run_folder.averaged_weights(folder / run_folder.BEST))
    fabric, scores = _fabric(), []
    network = fabric.to_device(network).eval()
    with torch.inference_mode():
        for case in cases:
            prediction, labels = stage.predict_case(fabric, network, case)
            structures = score_labels(prediction, labels, np.full(3, stage.config.spacing_mm))
            scores.append(TestCase(case=case.name, structures=tuple(structures)))
    return tuple(scores)
