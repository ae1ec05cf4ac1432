"""Progress of a job: steps, stages, remaining time, cancellation. Shared by command line, worker and panels.

Only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

#: ``fast``: fewer windows, coarser edges. ``flips``: the mean over mirrored windows, at four times the work.
Quality = Literal["fast", "full", "flips"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

#: Called with one line of text for the user during a long run.
Say = Callable[[str], None]

#: Names of the stages for the user.
STAGES = {
    "start": "starting",
    "load": "loading the model",
    "read": "reading",
    "prepare": "preparing",
    "locate": "finding the heart",
    "segment": "segmenting",
    "sample": "sampling from noise",
    "decode": "decoding",
    "resample": "resampling to the scan",
    "clean": "cleaning up",
    "check": "checking the pair",
    "write": "writing",
}


class Cancelled(Exception):  # noqa: N818 - not an error: the user asked for it
    """The job was stopped on request, between two steps."""


@dataclass(frozen=True)
class Progress:
    """Progress of a whole job: ``step`` of ``total``, which never decreases, a key of ``STAGES``, seconds so far."""

    step: int
    total: int
    stage: str
    seconds: float


@dataclass(frozen=True)
class Preview:
    """A slice of a pair at ``step`` of ``total`` of its sampling; ``file``: its picture (PGM) in the job's folder."""

    step: int
    total: int
    file: str


def remaining_seconds(progress: Progress) -> float | None:
    """Return the estimated seconds left, or None in the first half second or three steps."""
    if progress.step < 3 or progress.seconds < 0.5:
        return None
    return progress.seconds * (progress.total - progress.step) / progress.step
