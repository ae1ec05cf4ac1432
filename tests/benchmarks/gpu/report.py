"""The tables of the GPU check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

BEGIN = "<!-- figures: make gpu-check -->"

Row = Mapping[str, Any]
_TRAINING = "training-"


def problems_of(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return "part, row: problem" for everything that failed."""
    return [f"{part}, {row['row']}: {row['problem']}" for part, own in rows.items() for row in own if "problem" in row]


def markdown(report: Row) -> str:
    """Return the report as Markdown: where it was measured, two tables, and what failed."""
    rows: Mapping[str, Sequence[Row]] = report["rows"]
    every = [row for own in rows.values() for row in own]
    versions = next((row for row in every if row["row"] == "versions"), {})
    training = [row for part, own in rows.items() if part.startswith(_TRAINING) for row in own]
    others = [row for part, own in rows.items() if not part.startswith(_TRAINING) for row in own if row != versions]
    tiny = " This was a trial with tiny networks: the figures say nothing." if report["tiny"] else ""
    parts = [
        f"Measured {report['date']} on {versions.get('gpu', 'the CPU')} (torch {versions.get('torch', '?')}, CUDA "
        f"{versions.get('cuda', 'none')}), {report['processor']}, in {report['seconds']:.0f} s.{tiny}",
        _table(_OTHERS, others), _table(_TRAIN, training),
    ]  # fmt: skip
    problems = report["problems"]
    parts.append("\n".join(["What failed:", "", *(f"- {problem}" for problem in problems)]) if problems else "")
    return "\n\n".join(filter(None, parts))


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines)


def _number(name: str, text: str) -> Callable[[Row], str]:
    return lambda row: text.format(row[name]) if row.get(name) is not None else ""


def _remarks(row: Row) -> str:
    texts = [f"{name} {row[name]}" for name in ("grid", "steps", "decoded", "processes") if name in row]
    texts += [f"least Dice {row['least_dice']:.4f}"] if "least_dice" in row else []
    facts = ", ".join([*texts, *(["failed"] if "problem" in row else [])])
    return " ".join(filter(None, [facts, *row.get("warnings", ())]))


_PEAK = _number("peak_gb", "{:.2f} GB")
_OTHERS = {
    "what": lambda row: str(row["row"]), "seconds": _number("seconds", "{:.2f}"),
    "of them in networks": _number("network_seconds", "{:.2f}"), "peak memory": _PEAK,
    "same labels": _number("same_labels", "{:.5f}"), "remarks": _remarks,
}  # fmt: skip
_TRAIN = {
    "preset and network": lambda row: str(row["row"]), "weights": _number("millions", "{:.1f} M"),
    "batch": _number("batch", "{}"), "precision": _number("precision", "{}"),
    "steps per second": _number("steps_per_second", "{:.2f}"), "processes for data": _number("workers", "{}"),
    "waiting for data": _number("waiting", "{:.0%}"),
    "peak memory": _PEAK, "remarks": lambda row: "failed" if "problem" in row else "",
}  # fmt: skip
