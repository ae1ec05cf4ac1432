"""Everything that a report holds, from a set of generated pairs, held-out references, and training cases if given."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import wasserstein_distance

from CardiacLDMLib import __version__
from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.generation.acceptance import agreement_faults, label_faults
from CardiacLDMLib.image.overlap import agreement
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.postprocess import texture
from CardiacLDMLib.segmentation.segmenter import Segmenter

from ...errors import EvaluationError
from .. import ablation
from . import compare, diversity, features, labels, replicas
from . import texture as noise
from . import tone as brightness
from .cases import Pair, Source
from .compare import Measured
from .report import CaseRecord, Report, SpectrumRow
from .utility import Utility, compare_training

#: Fewest held-out cases: two halves of two.
FEWEST_REFERENCES, FEWEST_PAIRS = 4, 2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Findings:
    """What was found in one case."""

    name: str
    labels: labels.LabelFindings
    texture: noise.Texture
    tone: np.ndarray  # see tone.measure
    features: np.ndarray  # (F,)
    dice: dict[str, float] | None
    faults: frozenset[str]  # rules by which the pair would be drawn again

    @property
    def mean_dice(self) -> float:
        """NaN where the segmenter was not asked."""
        return float(np.mean(list(self.dice.values()))) if self.dice else float("nan")

    def record(self) -> CaseRecord:
        return CaseRecord(
            case=self.name,
            volumes_ml={name: round(ml, 2) for name, ml in self.labels.volumes_ml.items()},
            cut=sorted(self.labels.cut),
            broken=sorted(self.labels.broken),
            speckle=round(self.labels.speckle, 6),
            sd_hu={name: round(sd, 2) for name, sd in self.texture.sd_hu.items()},
            dice=self.dice and {name: round(dice, 4) for name, dice in self.dice.items()},
        )


class Examiner:
    """Looks at one case after the other with a segmenter package: its features, and its labels of the image.

    Raises PackageError for a package that is no segmenter, SegmenterError for a device that is not there.
    """

    def __init__(self, package: ModelPackage, device: str) -> None:
        self.package = package
        self.segmenter = Segmenter(package, device)
        self.features = features.Features(package, device)

    def examine(self, pair: Pair, segment: bool = True) -> Findings:
        """Raises VolumeError for labels that hold nothing, SegmenterError for a grid that is too small."""
        dice = None
        if segment:
            dice = agreement(pair.labels, self.segmenter.segment(pair.image_volume, quality="fast").labels.array)
        found = labels.examine(pair)
        faults = label_faults(pair.labels_volume)
        if dice:
            faults += agreement_faults(float(np.mean(list(dice.values()))))
        return Findings(
            pair.name, found, noise.measure(pair), brightness.measure(pair), self.features(pair.image_volume), dice,
            frozenset(fault.rule for fault in faults),
        )  # fmt: skip

    def examine_all(self, source: Source, segmented: int, what: str, say: Say) -> list[Findings]:
        """All cases of ``source``; ``segmented`` of them, evenly out of all, are given to the segmenter."""
        chosen = set(np.linspace(0, len(source) - 1, min(segmented, len(source))).astype(int).tolist())
        found = []
        for n in range(len(source)):
            found.append(self.examine(source[n], segment=n in chosen))
            if (n + 1) % max(len(source) // 5, 1) == 0:
                say(f"  {n + 1} of {len(source)} {what} examined")
        return found


def judge(
    generated: Source, reference: Source, train: Source | None, examiner: Examiner, *, plan: ablation.Plan | None,
    out: Path, generator: str | None = None, textured: bool = False, say: Say = lambda line: None,
) -> tuple[Report, list[Findings]]:  # fmt: skip
    """The report without its curve, and the findings in the references.

    ``plan``: budget of the networks trained on generated pairs and on training cases; None leaves them out. ``out`` is
    where their scratch files may lie. ``textured``: tone or texture was put on the pairs when they were drawn. Raises
    :class:`EvaluationError` for too few cases.
    """
    if len(reference) < FEWEST_REFERENCES or len(generated) < FEWEST_PAIRS:
        raise EvaluationError(
            f"At least {FEWEST_PAIRS} generated pairs and {FEWEST_REFERENCES} held-out cases are needed, "
            f"there are {len(generated)} and {len(reference)}."
        )
    copies = _replicas(generated, reference, train, say) if train else None  # it may refuse the training cases
    ours = examiner.examine_all(generated, len(generated), "generated pairs", say)
    theirs = examiner.examine_all(reference, len(generated), "held-out cases", say)
    utility: Utility | None = None
    if train and plan:
        utility = compare_training(generated, train, reference, plan, out, say)
    report = _report(generated, reference, train, ours, theirs, copies, utility, examiner, generator, textured)
    return report, theirs


def _replicas(generated: Source, reference: Source, train: Source, say: Say) -> replicas.Replicas:
    say(f"Looking for copies of {len(train)} training cases.")
    return replicas.judge(generated, reference, replicas.TrainingCases(train))


def _report(
    generated: Source, reference: Source, train: Source | None, ours: Sequence[Findings], theirs: Sequence[Findings],
    copies: replicas.Replicas | None, utility: Utility | None, examiner: Examiner, generator: str | None,
    textured: bool,
) -> Report:  # fmt: skip
    sources = {"generated": generated, "data": reference} | ({"train": train} if train else {})
    sets = [[f.labels for f in side] for side in (ours, theirs)]
    textures = [[f.texture for f in side] for side in (ours, theirs)]
    rules = [labels.broken_rules(side) for side in sets]
    package = examiner.package
    return Report(
        generated=generated.name, data=reference.name, train=train.name if train else None, package=generator,
        segmenter=described(package), textured=textured, grid=generated.view.grid, spacing_mm=generated.view.spacing_mm,
        date=datetime.datetime.now(datetime.UTC).date(), code_version=__version__,
        sizes={name: len(source) for name, source in sources.items()},
        skipped={name: source.skipped for name, source in sources.items() if source.skipped},
        measured=_measured(generated, reference, ours, theirs),
        volumes=labels.volume_rows(*sets),
        rules={rule: (count, rules[1][rule]) for rule, count in rules[0].items()},
        spectra=_spectra(*textures), remedy=dict(noise.remedy(*textures)),
        tone=brightness.remedy(*([f.tone for f in side] for side in (ours, theirs))), repair=None,
        replicas=copies, utility=utility, curve=[], left_out=_left_out(train, utility),
        pairs=[f.record() for f in ours], references=[f.record() for f in theirs],
    )  # fmt: skip


def described(package: ModelPackage) -> str:
    return f"{package.manifest.name} {package.manifest.version} ({package.sha256[:16]})"


def _left_out(train: Source | None, utility: Utility | None) -> list[str]:
    if train is None:
        return ["Replicas and training on generated pairs: no training cases were given."]
    return [] if utility else ["Training on generated pairs: no steps were given for it."]


# --- figures -------------------------------------------------------------------------------------------------------


def _measured(
    generated: Source, reference: Source, ours: Sequence[Findings], theirs: Sequence[Findings]
) -> dict[str, list[Measured]]:
    sections = {
        "acceptance": _acceptance(ours, theirs),
        "agreement": _agreement(ours, theirs),
        "features": feature_distances(ours, theirs),
        "diversity": [compare.means("MS-SSIM", diversity.ms_ssim(generated), diversity.ms_ssim(reference))],
        "anatomy": _anatomy(ours, theirs),
        "surroundings": _surroundings(ours, theirs),
        "texture": _texture(ours, theirs),
    }
    return {name: [m for m in rows if m is not None] for name, rows in sections.items()}


def _acceptance(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    """The share that :mod:`CardiacLDMLib.acceptance` rejects, and by which rules, of cases shown to the segmenter."""
    sides = [[f.faults for f in side if f.dice] for side in (ours, theirs)]
    rows = [compare.means("rejected", *([float(bool(f)) for f in side] for side in sides), kind="rate")]
    for rule in sorted({rule for side in sides for faults in side for rule in faults}):
        rates = [[float(rule in faults) for faults in side] for side in sides]
        rows.append(compare.means(f"rejected: {rule}", *rates, kind="rate"))
    return rows


def _agreement(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    rows = [compare.means("mean", [f.mean_dice for f in ours], [f.mean_dice for f in theirs])]
    for name in NAMES:
        values = [[f.dice[name] for f in side if f.dice and name in f.dice] for side in (ours, theirs)]
        rows.append(compare.means(name, *values))
    return rows


def feature_distances(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    """Frechet distance and MMD; features in units of their spread over the references (together: variance 1)."""
    in_units = features.standardised(np.stack([f.features for f in theirs]))
    generated, reference = (in_units(np.stack([f.features for f in side])) for side in (ours, theirs))
    kernel = features.mmd(features.usual_distance(reference))
    return [
        compare.distances("Frechet distance", features.frechet, generated, reference),
        compare.distances("MMD^2", kernel, generated, reference),
    ]


def _anatomy(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    broken = [[float(bool(f.labels.broken)) for f in side] for side in (ours, theirs)]
    speckle = [[100.0 * f.labels.speckle for f in side] for side in (ours, theirs)]
    rows = [compare.means("label maps with a broken rule", *broken, kind="rate")]
    for rule in sorted({rule for f in (*ours, *theirs) for rule in f.labels.broken}):
        counts = [[float(rule in f.labels.broken) for f in side] for side in (ours, theirs)]
        rows.append(compare.means(f"rule: {rule}", *counts, kind="rate"))
    return [*rows, compare.means("labelled voxels that the clean-up changes", *speckle, unit="%")]


def _surroundings(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    rows = [np.array([f.tone for f in side if np.isfinite(f.tone).all()]) for side in (ours, theirs)]
    if not all(map(len, rows)):
        return []
    bright = f"voxels above {brightness.BRIGHT_HU:g} HU"
    return [
        compare.means(bright, *(side[:, -1] for side in rows), unit="%"),
        compare.distances("HU", brightness.distance_hu, *rows, unit="HU"),
    ]


def _texture(ours: Sequence[Findings], theirs: Sequence[Findings]) -> list[Measured | None]:
    rows = []
    for name in (*noise.POOLS, "blood", *texture.TISSUES[1:]):
        values = [np.array([f.texture.sd_hu[name] for f in side if name in f.texture.sd_hu]) for side in (ours, theirs)]
        rows.append(compare.means(f"SD, {name}", *values, unit="HU"))
        rows.append(compare.distances(f"SD, {name}", wasserstein_distance, *values, unit="HU"))
    for name in texture.TISSUES:
        tables = [
            np.array([f.texture.spectra[name] for f in side if name in f.texture.spectra]).reshape(-1, texture.BINS)
            for side in (ours, theirs)
        ]
        rows.append(compare.distances(f"noise spectrum, {name}", noise.spectrum_distance_db, *tables, unit="dB"))
    return rows


def _spectra(ours: Sequence[noise.Texture], theirs: Sequence[noise.Texture]) -> list[SpectrumRow]:
    generated, reference = noise.mean_spectra(ours), noise.mean_spectra(theirs)
    return [
        SpectrumRow(
            tissue=name, generated=generated[name], reference=reference[name],
            cases=sum(name in t.spectra for t in ours), reference_cases=sum(name in t.spectra for t in theirs),
        )
        for name in texture.TISSUES
        if name in generated and name in reference
    ]  # fmt: skip
