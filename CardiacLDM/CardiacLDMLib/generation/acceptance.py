"""Judge generated pairs, and generate until one is accepted.

Three things are judged: the plausibility of the labels, by the rules that true hearts keep on a generator's grid; the
image around the heart, by what true scans keep; and the agreement of the labels with a segmenter's on the image. A
rejected pair is replaced by the next attempt at the same number, so an accepted pair depends on package, settings,
seed, number and judge alone. No pair of a generator with random weights is acceptable: use no judge then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .. import anatomy
from ..errors import NoAcceptablePair, SegmenterError, VolumeError
from ..image.grid import Volume
from ..image.labels import mean_agreement
from ..progress import Progress
from ..segmentation.findings import Finding, clause
from ..segmentation.segmenter import Segmenter
from ..torch_device import same_bits
from . import plausibility
from .appearance import image_findings
from .generator import Generator, OnPreview, Pair
from .settings import Conditions

#: Most attempts at a pair: of the pairs of a generator that needs three on average, one in sixty needs more.
MAX_ATTEMPTS = 10
#: Smallest mean Dice of an accepted pair. Of 100 virtual cases on the demo grid, 99 reach it.
LEAST_AGREEMENT = 0.75
#: Least volume of a structure as a share of its smallest usable one. A true pulmonary artery had 0.93 of that volume.
SMALLEST_SHARE = 0.5
#: Rules, with their structures, that true cases break on a grid of 3 mm, where walls are one voxel thick and the aorta
#: is in two pieces.
IGNORED_RULES = {
    ("pieces", ("AO",)), ("order", ("LA", "LV")),
    *(("forbidden contact", pair) for pair in (("LV", "RV"), ("LV", "RA"), ("LA", "RV"))),
}  # fmt: skip
#: Share of an attempt's progress that generating the pair takes, in percent; the rest is judging.
_GENERATING = 80


class FurtherJudge(Protocol):
    """A further check of each pair, for example for memorisation."""

    def __call__(self, pair: Pair) -> Sequence[Finding]:
        """Return the faults of a pair."""

    def record(self) -> dict[str, Any]:
        """Return the settings of the check, for the provenance of pairs."""


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """``faults``: none if the pair is accepted. ``agreement``: mean Dice with the segmenter, None if it did not look.

    ``remarks``: what is unlike a true scan, but would not change with another attempt.
    """

    faults: list[Finding]
    agreement: float | None
    remarks: list[Finding] = field(default_factory=list)


class Judge:
    """Judge pairs by plausibility, by their image, by a ``segmenter``'s labels of it, and by ``further`` judges.

    The segmenter and further judges look only at pairs without other faults, since they take longer. The segmenter runs
    with the fixed number of threads that pairs are generated with, so that verdicts repeat.
    """

    def __init__(
        self, segmenter: Segmenter | None, least_agreement: float = LEAST_AGREEMENT,
        further: Sequence[FurtherJudge] = (),
    ) -> None:  # fmt: skip
        self.segmenter, self.least_agreement, self.further = segmenter, least_agreement, tuple(further)

    def verdict(
        self, pair: Pair, progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Verdict:  # fmt: skip
        """Return the verdict on ``pair``. ``progress`` and ``cancelled`` are passed to the segmenter."""
        in_image, remarks = image_findings(pair.image, pair.labels)
        faults = label_faults(pair.labels) + in_image
        if faults:
            return Verdict(faults, None, remarks)
        agreement = None
        if self.segmenter is not None:
            agreement = self._agreement(pair, progress, cancelled)
            faults = agreement_faults(agreement, self.least_agreement)
        return Verdict(faults + [fault for judge in self.further for fault in judge(pair)], agreement, remarks)

    def _agreement(
        self, pair: Pair, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None
    ) -> float:
        """Return the mean Dice with the segmenter; 0 if it refuses the image, which cannot be a chest CT then."""
        assert self.segmenter is not None
        try:
            with same_bits():
                result = self.segmenter.segment(pair.image, quality="fast", progress=progress, cancelled=cancelled)
        except SegmenterError:
            return 0.0
        return round(mean_agreement(pair.labels.array, result.labels.array), 4)

    def record(self) -> dict[str, Any]:
        """Return the segmenter and the settings of all judges, for the provenance of pairs."""
        record: dict[str, Any] = {"segmenter": None}
        if self.segmenter is not None:
            package = self.segmenter.package
            identity = {"name": package.manifest.name, "version": package.manifest.version, "sha256": package.sha256}
            record = {"segmenter": identity, "least_agreement": self.least_agreement}
        for judge in self.further:
            record |= judge.record()
        return record


def fault_text(fault: Finding) -> str:
    """Return a fault as ``rule: clause``. Reports count rejections by the part before the colon."""
    return f"{fault.rule}: {clause(fault)}"


def agreement_faults(dice: float, least: float = LEAST_AGREEMENT) -> list[Finding]:
    """Return a fault if the mean Dice is below ``least``."""
    return [Finding("agreement", value=dice, limit=least)] if dice < least else []


def label_faults(volume: Volume) -> list[Finding]:
    """Return the faults of a pair's labels, by the rules that true cases keep on a generator's grid.

    Faults are missing structures, structures that are far too small and not cut off, and broken rules of plausibility
    that are not in ``IGNORED_RULES``.
    """
    try:
        labels = plausibility.as_labels(volume)
    except VolumeError:
        return [Finding("missing")]
    volumes = labels.volumes_ml()
    faults = [Finding("missing", (name,)) for name in anatomy.NAMES if name not in volumes]
    for name, ml in volumes.items():
        least = anatomy.SMALLEST_ML[name] * SMALLEST_SHARE
        if name not in labels.cut and ml < least:
            faults.append(Finding("too small", (name,), ml, least))
    broken = plausibility.check(labels)
    return faults + [f for f in broken if f.rule != "missing" and (f.rule, f.structures) not in IGNORED_RULES]


# --- generating ----------------------------------------------------------------------------------------------------


def generate_accepted(
    generator: Generator, judge: Judge | None, seed: int, index: int, conditions: Conditions | None = None, *,
    steps: int | None = None, guidance: float | None = None, solver: str | None = None,
    progress: Callable[[Progress], None] | None = None, cancelled: Callable[[], bool] | None = None,
    preview: OnPreview | None = None,
) -> Pair:  # fmt: skip
    """Return pair ``index`` of ``seed``: the first of up to ``MAX_ATTEMPTS`` attempts that ``judge`` accepts.

    Its provenance has an entry ``acceptance`` with the number of ``attempts``, the ``agreement``, the faults of
    ``rejected`` attempts, the ``remarks`` on the accepted one and the segmenter. Without a judge, the first attempt is
    returned. In ``progress`` an attempt takes 100 steps, and the total grows by 100 with each further attempt. The
    other arguments are those of :meth:`Generator.generate`. Raises :class:`NoAcceptablePair` after the last attempt.
    """
    began, rejected = time.perf_counter(), list[list[str]]()
    for attempt in range(MAX_ATTEMPTS):
        generating, judging = _listeners(progress, attempt, began)
        pair = generator.generate(
            seed, index, conditions, attempt=attempt, steps=steps, guidance=guidance, solver=solver,
            progress=progress if judge is None else generating, cancelled=cancelled, preview=preview,
        )  # fmt: skip
        if judge is None:
            return pair
        verdict = judge.verdict(pair, judging, cancelled)
        if not verdict.faults:
            remarks = [fault_text(remark) for remark in verdict.remarks]
            acceptance = {
                "attempts": attempt + 1, "agreement": verdict.agreement, "rejected": rejected, "remarks": remarks,
            }  # fmt: skip
            return replace(pair, provenance={**pair.provenance, "acceptance": acceptance | judge.record()})
        rejected.append([fault_text(fault) for fault in verdict.faults])
    raise NoAcceptablePair(index, rejected)


def _listeners(
    progress: Callable[[Progress], None] | None, attempt: int, began: float
) -> tuple[Callable[[Progress], None] | None, Callable[[Progress], None] | None]:
    """Return listeners to the progress of generating and of judging one attempt; they report to ``progress``."""
    if progress is None:
        return None, None
    report, total = progress, 100 * (attempt + 1)

    def part(low: int, high: int, stage: str = "") -> Callable[[Progress], None]:
        def listener(step: Progress) -> None:
            done = total - 100 + low + (high - low) * step.step // step.total
            report(Progress(done, total, stage or step.stage, time.perf_counter() - began))

        return listener

    return part(0, _GENERATING), part(_GENERATING, 100, "check")
