"""Measure generated pairs against held-out cases and, if given, training cases; collect the report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import wasserstein_distance

from CardiacLDMLib import __version__
from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.postprocess import texture
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ...errors import EvaluationError
from ..ablation import Budget
from . import compare, conditions, distances, diversity, features, labels, memorisation
from . import texture as noise
from . import tone as brightness
from .cases import CaseSet
from .compare import Comparison
from .examiner import CaseMeasures, Examiner
from .record import Report, SpectrumRow
from .utility import Utility, compare_training

#: Fewest held-out cases: two halves of two.
FEWEST_REFERENCES, FEWEST_PAIRS = 4, 2


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
    references = examiner.examine_all(reference, len(generated), "held-out cases", say, corrupt=True)
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
    records = [[f.record() for f in side] for side in (pairs, references)]
    known = [[source.conditions.get(name, {}) for name in source.names] for source in (generated, reference)]
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
        strengths=noise.noise_strengths(*textures),
        tone=brightness.tone_curve(*([f.tone for f in side] for side in (pairs, references))), repair=None,
        replicas=memorised, utility=utility, curve=[],
        conditions=conditions.condition_rows(records[0], records[1], known[0], known[1]),
        left_out=_left_out(train, utility),
        pairs=records[0], references=records[1],
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
    """Compare the sets by each kind of features, standardised over the references: MMD first, then the others.

    Each figure is also that of corrupted references, if their features were read.
    """
    rows: list[Comparison | None] = []
    for kind in (features.SLICES, features.HEART):
        standardise = distances.standardiser(np.stack([f.features[kind] for f in references]))
        generated, reference = (standardise(np.stack([f.features[kind] for f in side])) for side in (pairs, references))
        corrupted = {
            name: standardise(np.stack([f.corrupted[name][kind] for f in references]))
            for name in references[0].corrupted
        }
        for name, distance, of_kind in _figures_of_sets(reference):
            rows.append(
                compare.compare_distances(
                    f"{name}, {kind}", distance, generated, reference, kind=of_kind, corrupted=corrupted
                )
            )
    return rows


def _figures_of_sets(reference: np.ndarray) -> list[tuple[str, distances.Distance, Literal["distance", "share"]]]:
    """Return name, function and kind of the figures of two sets; what they fix, they take from ``reference`` (n, F)."""
    return [
        ("MMD^2", distances.mmd(distances.median_distance(reference)), "distance"),
        ("KID", distances.kid(), "distance"),
        ("Frechet distance", distances.frechet, "distance"),
        ("precision", distances.precision, "share"),
        ("recall", distances.recall, "share"),
        ("told apart by a classifier", distances.told_apart, "share"),
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
