"""Progress of a job as every front end sees it: steps, stages, remaining time, cancellation.

Only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

#: ``fast``: fewer windows, coarser edges. ``flips``: windows are looked at mirrored too, at four times the work.
Quality = Literal["fast", "full", "flips"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

#: Takes one line of text for whoever watches a long run.
Say = Callable[[str], None]

#: What a stage is called in front of the user.
STAGES = {
    "start": "starting",
    "load": "loading the model",
    "read": "reading",
    "prepare": "preparing",
    "locate": "finding the heart",
    "segment": "segmenting",
    "sample": "drawing from noise",
    "decode": "decoding",
    "resample": "labelling the scan's voxels",
    "clean": "cleaning up",
    "check": "checking the pair",
    "write": "writing",
}


class Cancelled(Exception):  # noqa: N818 - not an error: the user asked for it
    """The job was stopped between two steps because the caller asked for it."""


@dataclass(frozen=True)
class Progress:
    """``step`` of ``total`` over the whole job (never falls), the stage's name, seconds since the job began."""

    step: int
    total: int
    stage: str
    seconds: float


@dataclass(frozen=True)
class Preview:
    """How a pair looks at ``step`` of ``total`` while it is drawn: a grey picture (PGM) in the job's folder."""

    step: int
    total: int
    file: str


def remaining(progress: Progress) -> float | None:
    """Seconds that are likely left; None as long as too little was done to tell."""
    if progress.step < 3 or progress.seconds < 0.5:
        return None
    return progress.seconds * (progress.total - progress.step) / progress.step
