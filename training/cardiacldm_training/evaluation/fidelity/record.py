"""The fidelity report as it is stored in ``report.json``."""

from __future__ import annotations

import datetime

from pydantic import Field

from CardiacLDMLib.packages.fields import Record

from .case_record import CaseRecord
from .compare import Comparison, Spread
from .conditions import ConditionRow
from .labels import VolumeRow
from .memorisation import Memorisation
from .utility import Utility


class SpectrumRow(Record):
    """Noise-power spectrum (HU^2 per mode, by ring) of one tissue: mean over the cases in which it was measured."""

    tissue: str
    generated: tuple[float, ...]
    reference: tuple[float, ...]
    cases: int
    reference_cases: int


class CurvePoint(Record):
    """Quality of pairs with one solver and number of network evaluations. ``sound``: share without a broken rule."""

    solver: str
    steps: int
    restarts: int
    evaluations: int
    pairs: int
    unusable: int
    frechet: Comparison | None
    mmd: Comparison | None
    dice: Spread | None
    sound: float
    seconds: float


class Repair(Record):
    """The pair whose labels the clean-up changed most: changed and ``labelled`` voxels, ``mean`` over all pairs."""

    pair: str
    voxels: int
    labelled: int
    mean: float


class Report(Record):
    """All figures. ``skipped``: reason by name of the cases of each set that could not be used.

    ``remedy`` is the noise that the pairs lack, by tissue; ``strengths`` are factors of its standard deviation, as it
    varies from case to case; ``tone`` is the curve that corrects their HU around the heart.
    ``textured``: the generator already corrected tone or texture, so that both are what remains.
    """

    generated: str
    data: str
    train: str | None
    package: str | None
    segmenter: str
    textured: bool
    grid: tuple[int, int, int]
    spacing_mm: float
    date: datetime.date
    code_version: str
    sizes: dict[str, int]
    skipped: dict[str, dict[str, str]]
    measured: dict[str, list[Comparison]]
    volumes: list[VolumeRow]
    rules: dict[str, tuple[int, int]]
    spectra: list[SpectrumRow]
    remedy: dict[str, tuple[float, ...]]
    strengths: tuple[float, ...] = ()
    tone: tuple[tuple[float, float], ...] = ()
    repair: Repair | None
    replicas: Memorisation | None
    utility: Utility | None
    curve: list[CurvePoint]
    conditions: list[ConditionRow] = Field(default=[])
    left_out: list[str]
    pairs: list[CaseRecord]
    references: list[CaseRecord]
