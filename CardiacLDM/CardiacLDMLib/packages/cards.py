"""Model packages as rows of a list and as cards: what the Models panel shows, without Qt.

Packages that cannot be used are listed too, with the sentence that says why.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import PackageError
from ..files import remove_folder
from ..text import plural, printable, size_text
from .manifest import Figure, Manifest
from .store import ModelPackage, open_package, shipped_packages_dir, user_packages_dir

#: Up to this size a package's files are hashed when it is listed, at 1 GB/s in a twentieth of a second; larger ones are
#: hashed when they are verified and before each job.
HASHED_BYTES = 50_000_000


@dataclass(frozen=True)
class Row:
    """A folder among the packages. ``package`` is None, and ``problem`` a sentence, if it cannot be used."""

    folder: Path
    shipped: bool
    size_bytes: int
    package: ModelPackage | None
    problem: str = ""

    @property
    def name(self) -> str:
        """By this name jobs know the package."""
        return self.folder.name

    @property
    def title(self) -> str:
        """What a user calls it."""
        return (
            f"{self.package.manifest.title} ({self.package.manifest.version})" if self.package else printable(self.name)
        )

    @property
    def origin(self) -> str:
        """Where it comes from, or that it cannot be used."""
        return "unusable" if self.problem else "shipped" if self.shipped else "imported"


def rows() -> Iterator[Row]:
    """Every folder among the packages, those that ship first; up to a twentieth of a second each."""
    shipped_names = set()
    for parent, shipped in ((shipped_packages_dir(), True), (user_packages_dir(), False)):
        for folder in _folders(parent):
            if shipped:
                shipped_names.add(folder.name)
            hidden = not shipped and folder.name in shipped_names
            yield _row(folder, shipped, "a package of this name ships with CardiacLDM and is used instead" * hidden)


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return []


def _row(folder: Path, shipped: bool, hidden: str) -> Row:
    size = _size(folder)
    if hidden:
        return Row(folder, shipped, size, None, f"{printable(folder.name)} is not used: {hidden}.")
    try:
        return Row(folder, shipped, size, open_package(folder, hashed=size <= HASHED_BYTES))
    except PackageError as error:
        return Row(folder, shipped, size, None, str(error))


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_size
    return total


def remove(row: Row) -> None:
    """Remove an imported package, whole: it is renamed out of the list first. Raises :class:`PackageError`."""
    if row.shipped or row.folder.parent != user_packages_dir():
        raise PackageError(f"{printable(row.name)} ships with CardiacLDM and cannot be removed.")
    try:
        remove_folder(row.folder)
    except OSError as error:
        why = (error.strerror or "unknown error").lower()
        raise PackageError(f"{printable(row.name)} could not be removed: {why}.") from error


# --- cards ---------------------------------------------------------------------------------------------------------


def card(row: Row) -> str:
    """The row as HTML for a text browser. What a package says is text, never markup."""
    if row.package is None:
        return f"<p><b>{escape(row.title)}</b></p><p>{escape(row.problem)}</p>"
    manifest = row.package.manifest
    parts = [
        f"<p><b>{escape(manifest.title)}</b></p><p>{escape(manifest.summary)}</p>",
        f"<p><b>{escape(manifest.intended_use)}</b></p>",
        _facts(row, manifest),
        *_figures(manifest.figures),
        "".join(f"<p><small>{escape(text)}</small></p>" for text in manifest.attribution),
    ]
    return "".join(parts)


def _facts(row: Row, manifest: Manifest) -> str:
    assert row.package is not None
    training = manifest.training
    checked = "" if row.size_bytes <= HASHED_BYTES else ", files not checked yet"
    facts = {
        "Trained on": f"{training.data.rstrip('.')}. {training.cases} cases, {training.date}.",
        "Licence": manifest.licence,
        "Size": f"{size_text(row.size_bytes)} ({'ships with CardiacLDM' if row.shipped else 'imported'}{checked})",
        "Name": f"{row.name}, version {manifest.version}",
        "SHA-256": f"{row.package.sha256[:16]}...",
    }
    if manifest.generator is not None:
        facts |= {f"Condition {name}": known for name, known in manifest.generator.conditions().items()}
    return "".join(f"<p><b>{escape(name)}:</b> {escape(text)}</p>" for name, text in facts.items())


def _figures(figures: list[Figure]) -> Iterator[str]:
    """One table for each thing that was measured on."""
    if not figures:
        yield "<p><b>Figures:</b> it comes without any that were measured.</p>"
    groups: dict[tuple, list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.on, figure.cases, figure.date), []).append(figure)
    for (on, cases, date), group in groups.items():
        yield f"<p><b>Figures</b> on {escape(on)}, {plural(cases, 'case')}, {date}:</p>{_table(group)}"


def _table(figures: list[Figure]) -> str:
    """Figures named "Dice LA" in rows of what and columns of how it was measured."""
    measures: dict[str, str] = {}
    values: dict[str, dict[str, float]] = {}
    for figure in figures:
        measure, _, what = figure.name.partition(" ")
        measures.setdefault(measure, f"{measure}, {figure.unit}" if figure.unit else measure)
        values.setdefault(what, {})[measure] = figure.value
    head = "".join(f"<th align='right'>{escape(title)}</th>" for title in measures.values())
    lines = [
        f"<tr><td>{escape(what)}</td>"
        + "".join(f"<td align='right'>{_number(of.get(measure))}</td>" for measure in measures)
        + "</tr>"
        for what, of in values.items()
    ]
    return f"<table cellspacing='0' cellpadding='3'><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
