"""Evaluation of a segmenter package on labelled cases: scores per structure with bootstrap intervals.

Labels are compared on the case's own grid, so that the scores cover the whole pipeline: locator, resampling, clean-up.
:mod:`.metrics` defines the scores, :mod:`.statistics` their 95 % intervals over cases.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib import __version__, anatomy
from CardiacLDMLib.errors import explain
from CardiacLDMLib.files import write_text
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.segmenter import Segmenter
from CardiacLDMLib.tables import csv_text
from CardiacLDMLib.text import plural

from ..cases.readers.cases import read_case
from ..cases.readers.files import CaseFiles
from ..cases.unknown import comparable
from ..errors import EvaluationError
from .metrics import METRICS, TOLERANCE_MM, StructureScore, score_labels
from .statistics import RESAMPLES, Interval, bootstrap

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "evaluation.json", "evaluation.csv", "evaluation.md"


class CaseScore(Record):
    """Scores of one case, the warnings on its scan and its labels, and the time that it took.

    ``unknown``: structures that its labels leave unknown, which are not scored.
    """

    case: str
    structures: list[StructureScore]
    unknown: tuple[str, ...] = ()
    warnings: list[str]
    seconds: float


class Summary(Record):
    """Scores of one structure over all cases. The structure ``mean`` is the mean over the structures of each case."""

    structure: str
    cases: int
    missed: int
    extra: int
    dice: Interval
    hd95_mm: Interval
    nsd: Interval


class Evaluation(Record):
    """An evaluation as stored in ``evaluation.json``. ``failed``: the reason by the name of each case not scored."""

    package: str
    package_version: str
    package_sha256: str
    data: str
    date: datetime.date
    code_version: str
    device: str
    mirrored: bool
    tolerance_mm: float
    resamples: int
    summary: list[Summary]
    cases: list[CaseScore]
    failed: dict[str, str]


# --- one case ------------------------------------------------------------------------------------------------------


def evaluate_case(segmenter: Segmenter, files: CaseFiles, flips: bool) -> CaseScore:
    """Segment one case and score it on its own grid. Raises VolumeError or SegmenterError."""
    image, labels, notes, unknown = read_case(files)
    result = segmenter.segment(image, quality="flips" if flips else "full")
    prediction, reference = comparable(result.labels.array, labels.array, unknown)
    return CaseScore(
        case=files.name,
        structures=score_labels(prediction, reference, image.spacing),
        unknown=tuple(name for name in anatomy.NAMES if name in unknown),
        warnings=[*notes, *result.warnings],
        seconds=round(sum(result.seconds.values()), 2),
    )


# --- all cases -----------------------------------------------------------------------------------------------------


def evaluate_cases(
    segmenter: Segmenter, cases: Sequence[CaseFiles], data: str, *, flips: bool = False, say: Say = lambda line: None
) -> Evaluation:
    """Score all ``cases``; a case that fails is listed and the others are scored. ``data`` names them in the report."""
    done: list[CaseScore] = []
    failed: dict[str, str] = {}
    for index, files in enumerate(cases):
        try:
            score = evaluate_case(segmenter, files, flips)
        except Exception as error:  # one case must not stop the others
            failed[files.name] = explain(error).message
        else:
            done.append(score)
        say(f"{index + 1}/{len(cases)} {_case_line(files.name, done, failed)}")
    manifest = segmenter.package.manifest
    return Evaluation(
        package=manifest.name, package_version=manifest.version, package_sha256=segmenter.package.sha256, data=data,
        date=datetime.datetime.now(datetime.UTC).date(), code_version=__version__, device=segmenter.device,
        mirrored=flips, tolerance_mm=TOLERANCE_MM, resamples=RESAMPLES, summary=summarise(done), cases=done,
        failed=failed,
    )  # fmt: skip


def _case_line(name: str, done: Sequence[CaseScore], failed: dict[str, str]) -> str:
    if name in failed:
        return f"{name}: {failed[name]}"
    values = [score.dice for score in done[-1].structures]
    return f"{name}: mean Dice {np.mean(values) if values else float('nan'):.3f} in {done[-1].seconds:.0f} s"


def summarise(cases: Sequence[CaseScore]) -> list[Summary]:
    """Return a row for each structure that any case has, then the row ``mean``; an empty list without cases."""
    tables = {metric: np.full((len(cases), len(anatomy.NAMES)), np.nan) for metric in METRICS}
    outcomes = np.full((len(cases), len(anatomy.NAMES)), "", dtype=object)
    for row, case in enumerate(cases):
        for score in case.structures:
            column = anatomy.NAMES.index(score.structure)
            outcomes[row, column] = score.outcome
            for metric in METRICS:
                tables[metric][row, column] = getattr(score, metric)
    columns = [column for column in range(len(anatomy.NAMES)) if (outcomes[:, column] != "").any()]
    rows = [
        _summary(anatomy.NAMES[c], outcomes[:, c], {metric: table[:, c] for metric, table in tables.items()})
        for c in columns
    ]
    if columns:
        scored = (outcomes != "").any(axis=1)
        means = {metric: np.nanmean(table[scored], axis=1) for metric, table in tables.items()}
        rows.append(_summary("mean", outcomes[scored], means))
    return rows


def _summary(structure: str, outcomes: np.ndarray, values: dict[str, np.ndarray]) -> Summary:
    return Summary(
        structure=structure,
        cases=int(np.isfinite(values["dice"]).sum()),
        missed=int((outcomes == "missed").sum()),
        extra=int((outcomes == "extra").sum()),
        **{metric: bootstrap(values[metric][None, np.isfinite(values[metric])]) for metric in METRICS},
    )


# --- files ---------------------------------------------------------------------------------------------------------


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write ``evaluation.json``, ``.csv`` (a row per case and structure) and ``.md``. Raises OutputError."""
    write_text(out / JSON_FILE, evaluation.model_dump_json(indent=2) + "\n")
    write_text(out / CSV_FILE, _csv(evaluation))
    write_text(out / MARKDOWN_FILE, _markdown(evaluation))


def read_evaluation(folder: Path) -> Evaluation:
    """Read the ``evaluation.json`` of :func:`write_evaluation`. Raises :class:`EvaluationError`."""
    try:
        return Evaluation.model_validate_json((folder / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{folder} holds no readable {JSON_FILE} of this version.") from error


def _csv(evaluation: Evaluation) -> str:
    rows: list[tuple[str, ...]] = [("case", "structure", *METRICS, "outcome")]
    for case in evaluation.cases:
        for score in case.structures:
            rows.append((case.case, score.structure, *(f"{getattr(score, m):.6g}" for m in METRICS), score.outcome))
    return csv_text(rows)


def table(summary: Sequence[Summary]) -> str:
    """Return the summary as a Markdown table, with intervals where there are several cases."""
    lines = [
        "| structure | cases | missed | extra | Dice | HD95 mm | NSD |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        cells = [f"{i.mean:.{n}f} ({i.low:.{n}f} to {i.high:.{n}f})" if row.cases > 1 else f"{i.mean:.{n}f}"
                 for i, n in ((row.dice, 3), (row.hd95_mm, 1), (row.nsd, 3))]  # fmt: skip
        lines.append(f"| {row.structure} | {row.cases} | {row.missed} | {row.extra} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _markdown(evaluation: Evaluation) -> str:
    parts = [
        f"# {evaluation.package} {evaluation.package_version} on {evaluation.data}",
        f"{plural(len(evaluation.cases), 'case')}, {evaluation.date}, on {evaluation.device}"
        f"{', mirrored predictions averaged' if evaluation.mirrored else ''}; manifest "
        f"`{evaluation.package_sha256[:16]}`.",
        table(evaluation.summary) if evaluation.summary else "No case could be scored.",
        f"Means over cases with 95 % bootstrap intervals ({evaluation.resamples} resamples). NSD at "
        f"{evaluation.tolerance_mm:g} mm. A missed or an extra structure counts as Dice 0, NSD 0 and the scan's "
        "diagonal as HD95.",
    ]
    unknown = Counter(name for case in evaluation.cases for name in case.unknown)
    if unknown:
        counts = ", ".join(f"{name} in {plural(unknown[name], 'case')}" for name in anatomy.NAMES if name in unknown)
        parts.append(f"Left out, since the labels leave it unknown: {counts}.")
    if evaluation.failed:
        parts.append("Not scored:\n\n" + "\n".join(f"- {name}: {why}" for name, why in evaluation.failed.items()))
    return "\n\n".join(parts) + "\n"
