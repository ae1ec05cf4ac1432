"""Judging pairs, replacing rejected ones, and agreement between two label maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.errors import NoAcceptablePair
from CardiacLDMLib.generation import acceptance, plausibility
from CardiacLDMLib.generation.acceptance import Judge, fault_text, generate_accepted
from CardiacLDMLib.generation.generator import Generator, Pair
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.progress import STAGES, Cancelled, Progress
from CardiacLDMLib.segmentation.findings import Finding
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.box_heart import box_heart, box_pair
from tests.support.generator_package import write_tiny_generator
from tests.support.phantom_package import write_phantom_package


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter(open_package(write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom")), "cpu")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(open_package(write_tiny_generator(tmp_path_factory.mktemp("packages") / "tiny")), "cpu")


class Suspicious:
    def __call__(self, pair: Pair) -> list[Finding]:
        return [Finding("replica", value=0.1, limit=0.2)]

    def record(self) -> dict[str, Any]:
        return {"replicas": 3}


class AcceptFrom(Judge):
    """Accept attempts from ``number`` on; an earlier attempt has its number as pieces of LA."""

    def __init__(self, number: int) -> None:
        super().__init__(None)
        self.number = number

    def verdict(self, pair: Pair, *rest: Any) -> acceptance.Verdict:
        attempt = pair.provenance["attempt"]
        return acceptance.Verdict([Finding("pieces", ("LA",), attempt, 1)] if attempt < self.number else [], None)


# --- judging -------------------------------------------------------------------------------------------------------


def test_a_plausible_pair_is_accepted_with_its_agreement(segmenter: Segmenter) -> None:
    verdict = Judge(segmenter).verdict(box_pair())
    assert verdict.faults == []
    assert verdict.agreement is not None
    assert 0.8 < verdict.agreement < 1.0
    assert [remark.rule for remark in verdict.remarks] == ["lattice", "fat", "lung vessels"]
    assert Judge(None).verdict(box_pair()) == acceptance.Verdict([], None, verdict.remarks)
    assert Judge(segmenter).record()["segmenter"]["sha256"] == segmenter.package.sha256


def without(name: str, keep: int = 0) -> np.ndarray:
    """A heart of which only some voxels of one structure are left."""
    labels = box_heart()
    labels[tuple(np.argwhere(labels == VALUE[name])[keep:].T)] = 0
    return labels


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (without("LAA"), Finding("missing", ("LAA",))),
        (without("LV"), Finding("missing", ("LV",))),
        (without("LA", keep=40), Finding("too small", ("LA",), pytest.approx(1.08), 6.0)),
        (box_heart()[::-1], Finding("order", ("RA", "LV"), where="right of")),
        (box_heart() * 0, Finding("missing")),
        (
            np.pad(without("LV"), ((0, 0), (0, 0), (0, 4)))[:, :, 4:],
            Finding("missing", ("LV",)),
        ),  # cut vessels do not excuse
    ],
)
def test_implausible_labels_are_faults(labels: np.ndarray, fault: Finding) -> None:
    assert fault in Judge(None).verdict(box_pair(labels)).faults


def test_rules_that_true_hearts_break_on_a_coarse_grid_are_ignored() -> None:
    """A septum thinner than a voxel, and a descending aorta."""
    labels = box_heart()
    labels[25:32, 36:40, 14:18] = VALUE["RV"]
    labels[20:24, 2:6, :] = VALUE["AO"]
    broken = {f.structures for f in plausibility.check(plausibility.as_labels(box_pair(labels).labels))}
    assert broken == {("LV", "RV"), ("AO",)}
    assert Judge(None).verdict(box_pair(labels)).faults == []


def test_labels_that_disagree_with_the_image_are_a_fault(segmenter: Segmenter) -> None:
    moved = box_pair(np.roll(box_heart(), 3, axis=1))
    (fault,) = Judge(segmenter).verdict(moved).faults
    assert (fault.rule, fault.limit) == ("agreement", acceptance.LEAST_AGREEMENT)
    assert fault.value is not None
    assert 0.0 < fault.value < acceptance.LEAST_AGREEMENT
    assert Judge(segmenter, least_agreement=0.0).verdict(moved).faults == []
    blank = Pair(Volume(np.zeros(moved.image.array.shape, np.int16), moved.image.affine), box_pair().labels, {})
    assert Judge(segmenter).verdict(blank).agreement == 0.0  # no CT at all: the segmenter refuses it


def test_further_judges_are_asked_too() -> None:
    judge = Judge(None, further=[Suspicious()])
    assert [fault.rule for fault in judge.verdict(box_pair()).faults] == ["replica"]
    assert judge.record() == {"segmenter": None, "replicas": 3}


# --- generating ----------------------------------------------------------------------------------------------------


def test_a_rejected_pair_is_replaced_by_the_next_attempt(generator: Generator) -> None:
    pair = generate_accepted(generator, AcceptFrom(2), 4, 1, {"sex": "male"}, steps=2)
    plain = generator.generate(4, 1, {"sex": "male"}, steps=2, attempt=2)
    assert np.array_equal(pair.image.array, plain.image.array)
    assert pair.provenance == plain.provenance | {
        "acceptance": {
            "attempts": 3, "agreement": None, "segmenter": None, "remarks": [],
            "rejected": [[fault_text(Finding("pieces", ("LA",), n, 1))] for n in range(2)],
        }
    }  # fmt: skip


def test_the_error_after_the_last_attempt_has_the_reasons(generator: Generator) -> None:
    with pytest.raises(NoAcceptablePair, match="pair 7 ") as e:
        generate_accepted(generator, AcceptFrom(99), 0, 7, steps=1)
    reasons = [fault_text(Finding("pieces", ("LA",), n, 1)) for n in range(acceptance.MAX_ATTEMPTS)]
    assert e.value.rejected == [[reason] for reason in reasons]
    assert reasons[-1] in str(e.value)


def test_without_a_judge_it_is_the_plain_pair(generator: Generator) -> None:
    pair, plain = generate_accepted(generator, None, 3, 2, steps=1), generator.generate(3, 2, steps=1)
    assert pair.provenance == plain.provenance
    assert np.array_equal(pair.labels.array, plain.labels.array)


def test_progress_never_falls_and_cancelling_ends_it(generator: Generator, segmenter: Segmenter) -> None:
    reports: list[Progress] = []
    with pytest.raises(NoAcceptablePair):
        generate_accepted(generator, Judge(segmenter), 0, 0, steps=2, progress=reports.append)
    steps = [step.step for step in reports]
    assert steps == sorted(steps)
    assert {step.total for step in reports} == {100 * n for n in range(1, acceptance.MAX_ATTEMPTS + 1)}
    assert steps[-1] <= 100 * acceptance.MAX_ATTEMPTS
    assert {step.stage for step in reports} >= {"sample", "decode"}
    assert {step.stage for step in reports} <= {*STAGES, "check"}
    seen: Iterator[bool] = iter([False] * 3 + [True] * 9)
    with pytest.raises(Cancelled):
        generate_accepted(generator, Judge(segmenter), 0, 0, steps=2, cancelled=lambda: next(seen))
