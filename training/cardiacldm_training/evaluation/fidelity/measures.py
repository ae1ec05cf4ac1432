"""Measure generated pairs against held-out cases and, if given, training cases; collect the report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import wasserstein_distance

from CardiacLDMLib import __version__
from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.generation.acceptance import agreement_faults, label_faults
from CardiacLDMLib.generation.appearance import image_findings
from CardiacLDMLib.image.labels import agreement
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.postprocess import texture
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.segmenter import Segmenter
from CardiacLDMLib.text import plural

from ...errors import EvaluationError
from ..ablation import Budget
from . import compare, diversity, features, labels, memorisation
from . import texture as noise
from . import tone as brightness
from .cases import CaseSet, Pair
from .compare import Comparison
from .report import CaseRecord, Report, SpectrumRow
from .utility import Utility, compare_training

#: Fewest held-out cases: two halves of two.
FEWEST_REFERENCES, FEWEST_PAIRS = 4, 2


@dataclass(frozen=True)
class CaseMeasures:
    """All measures of one case."""

    name: str
    labels: labels.LabelFindings
    texture: noise.Texture
    tone: np.ndarray  # see tone.measure
    features: np.ndarray  # (F,)
    dice: dict[str, float] | None
    faults: frozenset[str]  # rules for which the pair would be rejected
    remarks: frozenset[str]  # rules of mere remarks on its image

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures; NaN without a segmentation."""
        return float(np.mean(list(self.dice.values()))) if self.dice else float("nan")

    def record(self) -> CaseRecord:
        """Return the measures for report.json."""
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
    """Measures cases with a segmenter package: by its features of the image and its labels of the image.

    Raises PackageError for a package that is no segmenter, SegmenterError for a missing device.
    """

    def __init__(self, package: ModelPackage, device: str) -> None:
        self.package = package
        self.segmenter = Segmenter(package, device)
        self.features = features.Features(package, device)

    def examine(self, pair: Pair, segment: bool = True) -> CaseMeasures:
        """Measure one case. Raises VolumeError for empty labels, SegmenterError for a grid that is too small."""
        dice = None
        if segment:
            dice = agreement(pair.labels, self.segmenter.segment(pair.image_volume, quality="fast").labels.array)
        label_measures = labels.examine(pair)
        in_image, remarks = image_findings(pair.image_volume, pair.labels_volume)
        faults = label_faults(pair.labels_volume) + in_image
        if dice:
            faults += agreement_faults(float(np.mean(list(dice.values()))))
        return CaseMeasures(
            pair.name, label_measures, noise.measure(pair), brightness.measure(pair), self.features(pair.image_volume),
            dice, frozenset(fault.rule for fault in faults), frozenset(remark.rule for remark in remarks),
        )  # fmt: skip

    def examine_all(self, source: CaseSet, segmented: int, items: str, say: Say) -> list[CaseMeasures]:
        """Measure all cases of ``source`` and segment ``segmented`` of them, evenly chosen."""
        indices = set(np.linspace(0, len(source) - 1, min(segmented, len(source))).astype(int).tolist())
        measures = []
        for n in range(len(source)):
            measures.append(self.examine(source[n], segment=n in indices))
            if (n + 1) % max(len(source) // 5, 1) == 0:
                say(f"  {n + 1} of {len(source)} {items} examined")
        return measures


def measure_fidelity(
    generated: CaseSet, reference: CaseSet, train: CaseSet | None, examiner: Examiner, *, budget: Budget | None,
    out: Path, generator: str | None = None, textured: bool = False, say: Say = lambda line: None,
) -> tuple[Report, list[CaseMeasures]]:  # fmt: skip
    """Return the report without its quality curve, and the measures of the references.

    ``budget`` is that of the networks trained on generated pairs and on training cases; None leaves them out. Their
    scratch files are in ``out``. ``textured``: tone or texture of the pairs was corrected when they were generated.
    Raises :class:`EvaluationError` for too few cases.
    """
    if len(reference) < FEWEST_REFERENCES or len(generated) < FEWEST_PAIRS:
        raise EvaluationError(
            f"At least {FEWEST_PAIRS} generated pairs and {FEWEST_REFERENCES} held-out cases are needed, "
            f"there are {len(generated)} and {len(reference)}."
        )
    # Before the long measurements, because it may reject the training cases.
    memorised = _find_memorised(generated, reference, train, say) if train else None
    pairs = examiner.examine_all(generated, len(generated), "generated pairs", say)
    references = examiner.examine_all(reference, len(generated), "held-out cases", say)
    utility: Utility | None = None
    if train and budget:
        utility = compare_training(generated, train, reference, budget, out, say)
    report = _report(generated, reference, train, pairs, references, memorised, utility, examiner, generator, textured)
    return report, references


def _find_memorised(generated: CaseSet, reference: CaseSet, train: CaseSet, say: Say) -> memorisation.Memorisation:
    """Compare generated pairs and references with the training cases."""
    say(f"Looking for pairs memorised from {plural(len(train), 'training case')}.")
    return memorisation.find_memorised(generated, reference, memorisation.TrainingCases(train))


def _report(
    generated: CaseSet, reference: CaseSet, train: CaseSet | None, pairs: Sequence[CaseMeasures],
    references: Sequence[CaseMeasures], memorised: memorisation.Memorisation | None, utility: Utility | None,
    examiner: Examiner, generator: str | None, textured: bool,
) -> Report:  # fmt: skip
    """Collect the report's parts; ``pairs`` and ``references`` are the measures of the generated and held-out cases."""
    sources = {"generated": generated, "data": reference} | ({"train": train} if train else {})
    sets = [[f.labels for f in side] for side in (pairs, references)]
    textures = [[f.texture for f in side] for side in (pairs, references)]
    rules = [labels.broken_rules(side) for side in sets]
    package = examiner.package
    return Report(
        generated=generated.name, data=reference.name, train=train.name if train else None, package=generator,
        segmenter=package_label(package), textured=textured, grid=generated.view.grid,
        spacing_mm=generated.view.spacing_mm,
        date=datetime.datetime.now(datetime.UTC).date(), code_version=__version__,
        sizes={name: len(source) for name, source in sources.items()},
        skipped={name: source.skipped for name, source in sources.items() if source.skipped},
        measured=_compare(generated, reference, pairs, references),
        volumes=labels.volume_rows(*sets),
        rules={rule: (count, rules[1][rule]) for rule, count in rules[0].items()},
        spectra=_spectra(*textures), remedy=dict(noise.missing_noise(*textures)),
        tone=brightness.tone_curve(*([f.tone for f in side] for side in (pairs, references))), repair=None,
        replicas=memorised, utility=utility, curve=[], left_out=_left_out(train, utility),
        pairs=[f.record() for f in pairs], references=[f.record() for f in references],
    )  # fmt: skip


def package_label(package: ModelPackage) -> str:
    """Return name, version and start of the hash of a package."""
    return f"{package.manifest.name} {package.manifest.version} ({package.sha256[:16]})"


def _left_out(train: CaseSet | None, utility: Utility | None) -> list[str]:
    if train is None:
        return ["Memorised training cases and training on generated pairs: no training cases were given."]
    return [] if utility else ["Training on generated pairs: no steps were given for it."]


# --- figures -------------------------------------------------------------------------------------------------------


def _compare(
    generated: CaseSet, reference: CaseSet, pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]
) -> dict[str, list[Comparison]]:
    """Return the comparisons of each section of the report."""
    sections = {
        "acceptance": _acceptance(pairs, references),
        "agreement": _agreement(pairs, references),
        "features": feature_distances(pairs, references),
        "diversity": [compare.compare_means("MS-SSIM", diversity.ms_ssim(generated), diversity.ms_ssim(reference))],
        "anatomy": _anatomy(pairs, references),
        "surroundings": _surroundings(pairs, references),
        "texture": _texture(pairs, references),
    }
    return {name: [m for m in rows if m is not None] for name, rows in sections.items()}


def _acceptance(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare the rates at which ``generation.acceptance`` rejects segmented cases and remarks on them, by rule."""
    sides = [[f for f in side if f.dice] for side in (pairs, references)]
    faults, remarks = ([[getattr(f, name) for f in side] for side in sides] for name in ("faults", "remarks"))
    rows = [compare.compare_means("rejected", *([float(bool(f)) for f in side] for side in faults), kind="rate")]
    for word, found in (("rejected", faults), ("remark", remarks)):
        for rule in sorted({rule for side in found for rules in side for rule in rules}):
            rates = [[float(rule in rules) for rules in side] for side in found]
            rows.append(compare.compare_means(f"{word}: {rule}", *rates, kind="rate"))
    return rows


def _agreement(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare the Dice between labels and the segmenter's labels of the image."""
    rows = [compare.compare_means("mean", [f.mean_dice for f in pairs], [f.mean_dice for f in references])]
    for name in NAMES:
        values = [[f.dice[name] for f in side if f.dice and name in f.dice] for side in (pairs, references)]
        rows.append(compare.compare_means(name, *values))
    return rows


def feature_distances(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare Frechet distance and MMD of features, standardised over the references."""
    standardise = features.standardiser(np.stack([f.features for f in references]))
    generated, reference = (standardise(np.stack([f.features for f in side])) for side in (pairs, references))
    kernel = features.mmd(features.median_distance(reference))
    return [
        compare.compare_distances("Frechet distance", features.frechet, generated, reference),
        compare.compare_distances("MMD^2", kernel, generated, reference),
    ]


def _anatomy(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare rates of broken anatomical rules and the share of voxels that the clean-up changes."""
    broken = [[float(bool(f.labels.broken)) for f in side] for side in (pairs, references)]
    speckle = [[100.0 * f.labels.speckle for f in side] for side in (pairs, references)]
    rows = [compare.compare_means("label maps with a broken rule", *broken, kind="rate")]
    for rule in sorted({rule for f in (*pairs, *references) for rule in f.labels.broken}):
        counts = [[float(rule in f.labels.broken) for f in side] for side in (pairs, references)]
        rows.append(compare.compare_means(f"rule: {rule}", *counts, kind="rate"))
    return [*rows, compare.compare_means("labelled voxels that the clean-up changes", *speckle, unit="%")]


def _surroundings(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare HU around the heart and the share of bright voxels."""
    rows = [np.array([f.tone for f in side if np.isfinite(f.tone).all()]) for side in (pairs, references)]
    if not all(map(len, rows)):
        return []
    bright = f"voxels above {brightness.BRIGHT_HU:g} HU"
    return [
        compare.compare_means(bright, *(side[:, -1] for side in rows), unit="%"),
        compare.compare_distances("HU", brightness.distance_hu, *rows, unit="HU"),
    ]


def _texture(pairs: Sequence[CaseMeasures], references: Sequence[CaseMeasures]) -> list[Comparison | None]:
    """Compare noise inside tissues: standard deviations and spectra."""
    rows = []
    for name in (*noise.POOLS, "blood", *texture.TISSUES[1:]):
        values = [
            np.array([f.texture.sd_hu[name] for f in side if name in f.texture.sd_hu]) for side in (pairs, references)
        ]
        rows.append(compare.compare_means(f"SD, {name}", *values, unit="HU"))
        rows.append(compare.compare_distances(f"SD, {name}", wasserstein_distance, *values, unit="HU"))
    for name in texture.TISSUES:
        tables = [
            np.array([f.texture.spectra[name] for f in side if name in f.texture.spectra]).reshape(-1, texture.BINS)
            for side in (pairs, references)
        ]
        rows.append(
            compare.compare_distances(f"noise spectrum, {name}", noise.spectrum_distance_db, *tables, unit="dB")
        )
    return rows


def _spectra(pairs: Sequence[noise.Texture], references: Sequence[noise.Texture]) -> list[SpectrumRow]:
    """Return the mean spectra of the tissues that both sides have."""
    generated, reference = noise.mean_spectra(pairs), noise.mean_spectra(references)
    return [
        SpectrumRow(
            tissue=name, generated=generated[name], reference=reference[name],
            cases=sum(name in t.spectra for t in pairs), reference_cases=sum(name in t.spectra for t in references),
        )
        for name in texture.TISSUES
        if name in generated and name in reference
    ]  # fmt: skip
