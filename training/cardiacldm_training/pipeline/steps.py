"""The steps of a pipeline, from labelled scans to packages: each is one command, as a user would type it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from CardiacLDMLib.packages.fields import Record

from ..errors import ConfigError

#: What can be left out: the generated pairs with all that is made of them, the pre-training on them, the evaluation.
Part = Literal["generate", "pretrain", "evaluate"]
#: A package is trained further for this share of a preset's steps, at this rate: docs/results/few-cases.md.
FURTHER_SHARE, FURTHER_RATE = 1 / 20, 1e-4
_NO_PAIRS = (
    "No pair passed the checks: repeat the command with --resume and a larger --effort, with --from virtual-pairs-v2, "
    "or with --skip generate."
)
#: Below this effort a pipeline is a trial: its generator draws nothing that a check would accept.
TRIAL_EFFORT = 0.1


class Settings(Record):
    """What a pipeline was asked to make; a resumed one is asked for the same.

    ``effort``: factor on the preset's steps. ``pairs_per_case``: generated pairs for each training case.
    ``segmenter`` and ``generator``: packages to start from. Pairs are drawn with the ``generator`` as it is.
    ``layout``: of the folder of cases, recognised by itself if None.
    """

    name: str
    preset: str = "demo"
    seed: int = 0
    effort: float = 1.0
    pairs_per_case: int = 3
    skip: tuple[Part, ...] = ()
    segmenter: str | None = None
    generator: str | None = None
    layout: str | None = None


@dataclass(frozen=True)
class Budget:
    """How much each step does: steps of each network, and pairs."""

    autoencoder: int
    diffusion: int
    pretrain: int
    segmenter: int
    pairs: int


@dataclass(frozen=True)
class Machine:
    """Options that change the pace and not the results."""

    device: str = "auto"
    devices: int = 1
    workers: int | None = None


@dataclass(frozen=True)
class Step:
    """One command. ``makes``: what it writes, which goes before it is done anew; ``results``: what counts of that.

    ``needs``: steps whose results it reads. ``reads_data``: it reads the scans. ``pace``: options of the machine.
    ``resume``: options with which it goes on after a stop. ``end``: a file that the command writes at its end, also if
    a pair or a case has failed, which is no reason to stop. ``some``: files of which at least one must be there then;
    ``advice``: what to do if there is none.
    """

    name: str
    title: str
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    results: tuple[Path, ...]
    needs: tuple[str, ...] = ()
    reads_data: bool = False
    pace: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    end: Path | None = None
    some: str = "*"
    advice: str = ""


@dataclass(frozen=True)
class Data:
    """A folder of cases, the split of them, and the table of what their labels mean, if it is not usual."""

    folder: Path
    split: Path
    labels_map: Path | None = None


@dataclass(frozen=True)
class Places:
    """The folders of a pipeline, all within ``out``."""

    out: Path
    prepared: Path
    generator_run: Path
    generator_package: Path
    pairs: Path
    pretraining: Path
    segmenter_run: Path
    segmenter_package: Path
    evaluation: Path


def places_in(out: Path, name: str) -> Places:
    """Return the folders of the pipeline in ``out`` whose segmenter has this ``name``."""
    packages = out / "packages"
    return Places(
        out, prepared=out / "prepared", generator_run=out / "generator", generator_package=packages / f"{name}-pairs",
        pairs=out / "pairs", pretraining=out / "pretrain", segmenter_run=out / "segmenter",
        segmenter_package=packages / name, evaluation=out / "evaluation",
    )  # fmt: skip


def parse_parts(names: Iterable[str]) -> tuple[Part, ...]:
    """Return the parts to leave out, in one order. Raises :class:`ConfigError` for other names."""
    wanted = set(names)
    unknown = sorted(wanted - set(get_args(Part)))
    if unknown:
        raise ConfigError(f"{unknown[0]!r} cannot be skipped: choose {', '.join(get_args(Part))}.")
    return tuple(part for part in get_args(Part) if part in wanted)


def make_steps(settings: Settings, budget: Budget, data: Data, places: Places, machine: Machine) -> list[Step]:
    """Return the steps in their order."""
    maker = _Maker(settings, budget, data, places, machine)
    steps: list[Step] = []
    if "generate" not in settings.skip:
        steps += [] if settings.generator else [maker.autoencoder(), maker.diffusion(), maker.generator_package()]
        steps.append(maker.pairs())
        steps += [] if "pretrain" in settings.skip else [maker.pretraining()]
    steps += [maker.segmenter(), maker.segmenter_package()]
    if "evaluate" not in settings.skip:
        steps += [maker.evaluation(), maker.card()]
    return steps


@dataclass(frozen=True)
class _Maker:
    settings: Settings
    budget: Budget
    data: Data
    places: Places
    machine: Machine

    @property
    def _cases(self) -> tuple[str, ...]:
        return (*self._folder, "--cache", str(self.places.prepared))

    @property
    def _folder(self) -> tuple[str, ...]:
        return ("--data", str(self.data.folder), *self._reading, "--split", str(self.data.split))

    @property
    def _reading(self) -> tuple[str, ...]:
        layout = () if self.settings.layout is None else ("--layout", self.settings.layout)
        meaning = () if self.data.labels_map is None else ("--map", str(self.data.labels_map))
        return (*layout, *meaning)

    @property
    def _preset(self) -> tuple[str, ...]:
        return ("--preset", self.settings.preset, "--seed", str(self.settings.seed))

    @property
    def _pace(self) -> tuple[str, ...]:
        workers = () if self.machine.workers is None else ("--workers", str(self.machine.workers))
        return ("--device", self.machine.device, "--devices", str(self.machine.devices), *workers)

    def autoencoder(self) -> Step:
        run = self.places.generator_run
        return Step(
            "autoencoder", "Train the generator's autoencoder",
            ("train", "autoencoder", *self._cases, *self._preset, "--steps", str(self.budget.autoencoder),
             "--out", str(run)),
            makes=(run,), results=(run / "autoencoder" / "best.ckpt",), reads_data=True, pace=self._pace,
            resume=("--resume",),
        )  # fmt: skip

    def diffusion(self) -> Step:
        run = self.places.generator_run
        return Step(
            "diffusion", "Train the generator's diffusion",
            ("train", "diffusion", *self._cases, "--steps", str(self.budget.diffusion), "--out", str(run)),
            makes=(run / "diffusion",), results=(run / "diffusion" / "best.ckpt",), needs=("autoencoder",),
            reads_data=True, pace=self._pace, resume=("--resume",),
        )  # fmt: skip

    def generator_package(self) -> Step:
        package = self.places.generator_package
        return Step(
            "generator package", "Write the generator as a package",
            ("train", "export", str(self.places.generator_run), "--out", str(package), "--name", package.name,
             "--overwrite"),
            makes=(package,), results=(package / "manifest.json",), needs=("diffusion",),
        )  # fmt: skip

    def pairs(self) -> Step:
        """Draw pairs. Copies of the scans are rejected: a pair must not show a patient. A trial keeps all."""
        folder, own = self.places.pairs, self.settings.generator is None
        copies = ("--train", str(self.data.folder), *self._reading) if own else ()
        checks = ("--no-check",) if own and self.settings.effort < TRIAL_EFFORT else copies
        return Step(
            "pairs", "Generate pairs",
            ("generate", "--package", self.settings.generator or str(self.places.generator_package),
             "--count", str(self.budget.pairs), "--seed", str(self.settings.seed), *checks, "--cache",
             str(self.places.prepared), "--out", str(folder), "--yes"),
            makes=(folder,), results=(folder,), needs=("generator package",) if own else (), reads_data=own,
            pace=self._pace[:4], end=folder / "acceptance.json",
            some="pair_*/ct.nii.gz", advice=_NO_PAIRS,
        )  # fmt: skip

    def pretraining(self) -> Step:
        run = self.places.pretraining
        return Step(
            "pretraining", "Pre-train the segmenter on the pairs' images",
            ("train", "pretrain", "--data", str(self.places.pairs), "--cache", str(self.places.prepared),
             *self._preset, "--steps", str(self.budget.pretrain), "--out", str(run)),
            makes=(run,), results=(run / "pretrain" / "best.ckpt",), needs=("pairs",), pace=self._pace,
            resume=("--resume",),
        )  # fmt: skip

    def segmenter(self) -> Step:
        """Fine-tune on cases and pairs. A package to start from has an encoder already."""
        run, needs = self.places.segmenter_run, list[str]()
        further: tuple[str, ...] = ()
        if "generate" not in self.settings.skip:
            needs.append("pairs")
            further = ("--mix", str(self.places.pairs), "--mix-share", str(self.settings.pairs_per_case))
            if "pretrain" not in self.settings.skip:
                needs.append("pretraining")
                further += ("--encoder", str(self.places.pretraining))
        if self.settings.segmenter:
            further += ("--from", self.settings.segmenter, "--learning-rate", str(FURTHER_RATE))
        return Step(
            "segmenter", "Train the segmenter",
            ("train", "segmenter", *self._cases, *self._preset, "--steps", str(self.budget.segmenter), *further,
             "--out", str(run)),
            makes=(run,), results=tuple(run / name / "best.ckpt" for name in ("locator", "segmenter")),
            needs=tuple(needs), reads_data=True, pace=self._pace, resume=("--resume",),
        )  # fmt: skip

    def segmenter_package(self) -> Step:
        is_last = "evaluate" in self.settings.skip  # else the step of the figures writes the package again
        return self._export("segmenter package", "Write the segmenter as a package", ("segmenter",), is_last=is_last)

    def evaluation(self) -> Step:
        folder = self.places.evaluation
        return Step(
            "evaluation", "Measure the segmenter on the cases kept aside",
            ("evaluate", *self._folder, "--part", "test", "--package", str(self.places.segmenter_package),
             "--out", str(folder)),
            makes=(folder,), results=(folder / "evaluation.json",), needs=("segmenter",), reads_data=True,
            pace=self._pace[:2], end=folder / "evaluation.json",
        )  # fmt: skip

    def card(self) -> Step:
        return self._export(
            "model card", "Write the figures into the package", ("segmenter", "evaluation"),
            ("--evaluation", str(self.places.evaluation)), is_last=True,
        )  # fmt: skip

    def _export(
        self, name: str, title: str, needs: tuple[str, ...], further: tuple[str, ...] = (), *, is_last: bool
    ) -> Step:
        package = self.places.segmenter_package
        return Step(
            name, title,
            ("train", "export", str(self.places.segmenter_run), "--out", str(package), "--name", package.name,
             "--overwrite", *further),
            makes=(), results=(package / "manifest.json",) if is_last else (), needs=needs,
        )  # fmt: skip
