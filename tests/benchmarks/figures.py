"""The figures that benchmarks put into docs/results/performance.md."""

from __future__ import annotations

import os
import platform
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "results" / "performance.md"
END = "<!-- end of figures -->"


def processor() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def write_figures(begin: str, figures: str, document: Path = DOCUMENT) -> None:
    """Replace the text between the mark ``begin`` and the next :data:`END` in the document."""
    text = document.read_text(encoding="utf-8")
    head, mark, rest = text.partition(begin)
    _, end, tail = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"{document.name} lacks the marks of the figures.")
    document.write_text(f"{head}{begin}\n{figures}\n{END}{tail}", encoding="utf-8")
