"""The plan of an experiment: sets of cases, pre-trainings, arms, protocols and seeds, written before any result.

An **arm** is a way to train (pre-training, mixture), a **protocol** fixes the budget that arms are compared under. Each
arm of each protocol is trained once for each seed: a **run**. Endpoints say in advance which comparison decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from CardiacLDMLib import anatomy
from CardiacLDMLib.packages.fields import PLAIN, Record, Text
from CardiacLDMLib.text import first_problem

from ...cases.settings import AugmentConfig, Positive, SamplingConfig
from ...errors import EvaluationError
from ...stages.config import MOST_EXAMPLES
from ...stages.masking import Mask, Side
from ...virtual.protocol import Appearance
from ..metrics import METRICS

Name = Annotated[str, Field(min_length=1, max_length=80, pattern=PLAIN)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
#: What torch takes as a seed.
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
AnyRecord = TypeVar("AnyRecord", bound=Record)


# --- sets of cases -------------------------------------------------------------------------------------------------


class Folders(Record):
    """The labelled cases or generated pairs in ``folders`` (relative to the plan's folder), or the first ``cases``."""

    kind: Literal["folders"] = "folders"
    folders: Annotated[tuple[Path, ...], Field(min_length=1)]
    cases: Count | None = None


class Virtual(Record):
    """Cases of a virtual cohort, made if they are not there (see :mod:`cardiacldm_training.virtual.cohort`)."""

    kind: Literal["virtual"] = "virtual"
    cases: Count
    seed: Seed
    spacing_mm: Annotated[float, Field(ge=0.7, le=4)] = 1.5
    anatomies: Path | None = None
    template_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    deformation: Annotated[float, Field(ge=0, le=3)] = 1.0
    appearance: Appearance = "realistic"
    surroundings: bool = True


Source = Annotated[Folders | Virtual, Field(discriminator="kind")]


# --- ways to train -------------------------------------------------------------------------------------------------


class Network(Record):
    """The network of all arms and its training, as in :class:`~cardiacldm_training.stages.config.NetworkConfig`."""

    architecture: str = "unet"
    arguments: dict[str, Any] = Field(
        default_factory=lambda: {"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "norm": "instance"}
    )
    spacing_mm: Annotated[float, Field(ge=0.5, le=10)] = 3.0
    patch: tuple[Side, Side, Side] = (48, 48, 48)
    batch: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] = 2
    learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    sampling: SamplingConfig = SamplingConfig(anywhere=0.0)
    #: Rotation and scale alone, so that variation comes from the cases.
    augment: AugmentConfig = AugmentConfig(
        rotation_deg=10.0, scale=(0.9, 1.1), flip=0.0, warp_mm=0.0, contrast=0.0, bias=0.0, blur=0.0, thick_slices=0.0,
        noise=0.0, scale_hu=0.0, shift_hu=0.0, gamma=0.0, view=0.0,
    )  # fmt: skip


class Pretraining(Record):
    """Masked pre-training on the images of a set, each tenth of which is held out for validation."""

    images: Name
    mask: Mask
    steps: Count
    validations: Count = 10


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Arm(Record):
    """One way to train: on the sets ``train``, or mixed with ``share`` pairs of ``mix`` for each of their cases.

    ``pretraining``: the encoder to start from; without it all weights are random.
    """

    train: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("train",)
    pretraining: Name | None = None
    mix: Name | None = None
    share: Annotated[float, Field(ge=0.01, le=100)] = 3.0


class Protocol(Record):
    """The budget of an arm: ``steps``, or at most ``epochs`` with early stopping after ``patience`` epochs.

    An epoch visits as many patches as the arm has training cases and pairs. ``labels``: only the first cases of the
    training set. The weights with the best of the validations, at most on ``validation_cases``, are tested.
    """

    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    baseline: Name
    steps: Count | None = None
    validations: Count = 8
    epochs: Count | None = None
    patience: Count = 10
    labels: Annotated[int, Field(ge=2)] | None = None
    validation_cases: Count = 1000
    encoder_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    frozen_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Protocol:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.baseline not in self.arms:
            raise ValueError(f"its baseline {self.baseline!r} is none of its arms")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("it has an arm twice")
        return self


class Endpoint(Record):
    """A comparison fixed in advance: the arms of a protocol with its baseline, on one test set by one measure."""

    protocol: Name
    test: Name
    measure: Literal["dice", "hd95_mm", "nsd"] = "dice"
    structure: str = "mean"


# --- the plan ------------------------------------------------------------------------------------------------------


class Plan(Record):
    """An experiment. Names in ``arms``, ``protocols`` and endpoints are keys of the other fields."""

    title: Text = "Experiment"
    seeds: tuple[Seed, ...]
    sets: dict[Name, Source]
    validation: Name = "validation"
    tests: Annotated[tuple[Name, ...], Field(min_length=1)]
    network: Network = Network()
    pretrainings: dict[Name, Pretraining] = Field(default_factory=dict)
    arms: dict[Name, Arm]
    protocols: Annotated[dict[Name, Protocol], Field(min_length=1)]
    primary: Endpoint
    secondary: tuple[Endpoint, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if len(set(self.seeds)) < max(len(self.seeds), 2):
            raise ValueError("seeds: two or more different seeds are needed to tell an effect from chance")
        tested = [name for arm in self.arms.values() for name in (*arm.train, arm.mix) if name in self.tests]
        if tested:
            raise ValueError(f"the set {tested[0]!r} is to be trained on and tested on: choose another one")
        for what, names, known in self._references():
            for name in names:
                if name is not None and name not in known:
                    raise ValueError(f"there is no {what} {name!r}: choose {', '.join(known)}")
        return self

    def _references(self) -> Iterator[tuple[str, Sequence[str | None], Sequence[str]]]:
        """Yield the kind, the names that refer to it, and the known names."""
        sets, endpoints = list(self.sets), (self.primary, *self.secondary)
        yield "set", [self.validation, *self.tests], sets
        for arm in self.arms.values():
            yield "set", [*arm.train, arm.mix], sets
            yield "pre-training", [arm.pretraining], list(self.pretrainings)
        yield "set", [pretraining.images for pretraining in self.pretrainings.values()], sets
        yield "arm", [name for protocol in self.protocols.values() for name in protocol.arms], list(self.arms)
        yield "protocol", [end.protocol for end in endpoints], list(self.protocols)
        yield "test set", [end.test for end in endpoints], self.tests
        yield "structure", [end.structure for end in endpoints], ["mean", *anatomy.NAMES]
        yield "measure", [end.measure for end in endpoints], METRICS

    def sets_of(self, arm: Arm) -> set[str]:
        """Return the names of the sets that an arm is trained, pre-trained, validated and tested on."""
        names = {*arm.train, arm.mix, self.validation, *self.tests}
        if arm.pretraining is not None:
            names.add(self.pretrainings[arm.pretraining].images)
        return {name for name in names if name is not None}


def read_plan(path: Path) -> Plan:
    """Read a plan from JSON; its paths are relative to its folder. Raises :class:`EvaluationError`."""
    plan = read_record(path, Plan)
    return plan.model_copy(update={"sets": {name: _absolute(s, path.parent) for name, s in plan.sets.items()}})


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read a plan of a ``kind`` from JSON. Raises :class:`EvaluationError` that names what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
        return kind.model_validate_json(json.dumps(content))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise EvaluationError(f"{path.name} is no plan: {first_problem(error)}.") from error
    except ValueError as error:  # no JSON, no text, or a name twice
        raise EvaluationError(f"{path.name} is no plan: it is not JSON ({error}).") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"{twins[0]!r} is given twice")
    return dict(pairs)


def _absolute(source: Source, base: Path) -> Source:
    if isinstance(source, Folders):
        return source.model_copy(update={"folders": tuple(base / folder for folder in source.folders)})
    if isinstance(source, Virtual) and source.anatomies:
        return source.model_copy(update={"anatomies": base / source.anatomies})
    return source
