"""Whether a generated pair may be kept, and drawing pairs until one may.

A pair is judged by its labels alone (:mod:`soundness`, as far as true hearts keep its rules on a generator's grid), and
by how far they agree with the labels that a segmenter gives its image. A pair that fails is drawn again, as the next
attempt at the same number: so an accepted pair is still a function of package, settings, seed and number, and of the
judge. A tiny generator with random weights never draws an acceptable pair: draw without a judge then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import anatomy
from ..errors import NoAcceptablePair, SegmenterError, VolumeError
from ..image.grid import Volume
from ..image.overlap import mean_agreement
from ..progress import Progress
from ..segmentation.findings import Finding, clause
from ..segmentation.segmenter import Segmenter
from ..torch_device import same_bits
from . import plausibility
from .generator import Generator, Pair, Preview
from .settings import Conditions

#: How often a pair is drawn at most.
MAX_ATTEMPTS = 5
#: Mean Dice below which labels and image disagree. Of 100 true virtual cases on the demo grid, 99 reach it.
LEAST_AGREEMENT = 0.75
#: Part of the smallest usable volume of a structure that it must have: a true pulmonary artery had 93 % of it.
SMALLEST_PART = 0.5
#: Broken by true cases on a grid of 3 mm, where walls are a voxel thick and the aorta comes in two: no fault there.
NO_FAULT = {
    ("pieces", ("AO",)), ("order", ("LA", "LV")),
    *(("forbidden contact", pair) for pair in (("LV", "RV"), ("LV", "RA"), ("LA", "RV"))),
}  # fmt: skip
#: From where on the progress of an attempt is that of judging it, in percent.
_DRAWN = 80


class FurtherJudge(Protocol):
    """Asked of each pair; what it finds is a fault."""

    def __call__(self, pair: Pair) -> Sequence[Finding]: ...

    def record(self) -> dict[str, Any]:
        """What it judges by, for the provenance of pairs."""


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """``faults`` of a pair, none if it may be kept; ``agreement``: mean Dice with the segmenter, None without one."""

    faults: list[Finding]
    agreement: float | None


class Judge:
    """Judges pairs by soundness, by the ``segmenter``'s labels of the image if there is one, and by ``further`` judges.

    The segmenter looks at every pair in the same way, on as many threads as pairs are drawn with.
    """

    def __init__(
        self, segmenter: Segmenter | None, least_agreement: float = LEAST_AGREEMENT,
        further: Sequence[FurtherJudge] = (),
    ) -> None:  # fmt: skip
        self.segmenter, self.least_agreement, self.further = segmenter, least_agreement, tuple(further)

    def faults(self, pair: Pair) -> list[str]:
        """Why ``pair`` should not be kept, each as ``rule: what``; empty if it may be."""
        return [said(fault) for fault in self.verdict(pair).faults]

    def verdict(
        self, pair: Pair, progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Verdict:  # fmt: skip
        """Judge ``pair``. ``progress`` is that of the segmenter; ``cancelled`` ends it with ``Cancelled``."""
        found = unsound(pair.labels)
        agreed = None
        if self.segmenter is not None:
            agreed = self._agreement(pair, progress, cancelled)
            found += disagreement(agreed, self.least_agreement)
        return Verdict(found + [fault for judge in self.further for fault in judge(pair)], agreed)

    def _agreement(
        self, pair: Pair, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None
    ) -> float:
        """0 for an image that the segmenter refuses, since it cannot be a chest CT."""
        assert self.segmenter is not None
        try:
            with same_bits():
                seen = self.segmenter.segment(pair.image, quality="fast", progress=progress, cancelled=cancelled)
        except SegmenterError:
            return 0.0
        return round(mean_agreement(pair.labels.array, seen.labels.array), 4)

    def record(self) -> dict[str, Any]:
        """What pairs were judged by, for their provenance."""
        record: dict[str, Any] = {"segmenter": None}
        if self.segmenter is not None:
            package = self.segmenter.package
            named = {"name": package.manifest.name, "version": package.manifest.version, "sha256": package.sha256}
            record = {"segmenter": named, "least_agreement": self.least_agreement}
        for judge in self.further:
            record |= judge.record()
        return record


def said(fault: Finding) -> str:
    """A fault in words, its rule first: rules are counted by what stands before the colon."""
    return f"{fault.rule}: {clause(fault)}"


def disagreement(agreed: float, least: float = LEAST_AGREEMENT) -> list[Finding]:
    """A fault if the mean agreement is below ``least``."""
    return [Finding("agreement", value=agreed, limit=least)] if agreed < least else []


def unsound(volume: Volume) -> list[Finding]:
    """What is wrong with a pair's labels by the rules that true cases keep on a generator's grid.

    Structures that are missing, whole ones that are far too small, and broken rules of soundness but ``NO_FAULT``.
    """
    try:
        labels = plausibility.as_labels(volume)
    except VolumeError:
        return [Finding("missing")]
    volumes = labels.volumes_ml()
    found = [Finding("missing", (name,)) for name in anatomy.NAMES if name not in volumes]
    for name, ml in volumes.items():
        least = anatomy.SMALLEST_ML[name] * SMALLEST_PART
        if name not in labels.cut and ml < least:
            found.append(Finding("too small", (name,), ml, least))
    broken = plausibility.check(labels)
    return found + [f for f in broken if f.rule != "missing" and (f.rule, f.structures) not in NO_FAULT]


# --- drawing -------------------------------------------------------------------------------------------------------


def draw(
    generator: Generator, judge: Judge | None, seed: int, index: int, conditions: Conditions | None = None, *,
    steps: int | None = None, guidance: float | None = None, solver: str | None = None,
    progress: Callable[[Progress], None] | None = None, cancelled: Callable[[], bool] | None = None,
    preview: Preview | None = None,
) -> Pair:  # fmt: skip
    """Pair ``index`` of ``seed``: the first of ``MAX_ATTEMPTS`` attempts that ``judge`` finds no fault with.

    Its provenance has an entry ``acceptance`` with the number of ``attempts``, the ``agreement``, the faults of
    ``rejected`` ones and the segmenter. Without a judge it is the first attempt, as it is. The steps of an attempt
    count 0 to 100 in ``progress``, whose total grows by 100 with each further attempt. Otherwise as
    :meth:`Generator.generate`; raises :class:`NoAcceptablePair` after the last attempt.
    """
    began, rejected = time.perf_counter(), list[list[str]]()
    for attempt in range(MAX_ATTEMPTS):
        drawing, judging = _told(progress, attempt, began)
        pair = generator.generate(
            seed, index, conditions, attempt=attempt, steps=steps, guidance=guidance, solver=solver,
            progress=progress if judge is None else drawing, cancelled=cancelled, preview=preview,
        )  # fmt: skip
        if judge is None:
            return pair
        verdict = judge.verdict(pair, judging, cancelled)
        if not verdict.faults:
            acceptance = {"attempts": attempt + 1, "agreement": verdict.agreement, "rejected": rejected}
            return replace(pair, provenance={**pair.provenance, "acceptance": acceptance | judge.record()})
        rejected.append([said(fault) for fault in verdict.faults])
    raise NoAcceptablePair(index, rejected)


def _told(
    progress: Callable[[Progress], None] | None, attempt: int, began: float
) -> tuple[Callable[[Progress], None] | None, Callable[[Progress], None] | None]:
    """Takers of the progress of drawing and of judging an attempt, as parts of the whole."""
    if progress is None:
        return None, None
    tell, total = progress, 100 * (attempt + 1)

    def part(low: int, high: int, stage: str = "") -> Callable[[Progress], None]:
        def told(step: Progress) -> None:
            done = total - 100 + low + (high - low) * step.step // step.total
            tell(Progress(done, total, stage or step.stage, time.perf_counter() - began))

        return told

    return part(0, _DRAWN), part(_DRAWN, 100, "check")
