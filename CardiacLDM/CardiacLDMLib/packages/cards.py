"""Model packages as rows of a list and as HTML cards, for the Models panel. Needs no Qt.

Packages that cannot be used are listed too, with the reason.
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

#: Size up to which packages are hashed when they are listed: 50 ms at 1 GB/s. Larger ones are hashed when they are
#: verified and before each job.
HASHED_BYTES = 50_000_000


@dataclass(frozen=True)
class Row:
    """One folder of packages. If it cannot be used, ``package`` is None and ``problem`` is a sentence for the user."""

    folder: Path
    shipped: bool
    size_bytes: int
    package: ModelPackage | None
    problem: str = ""

    @property
    def name(self) -> str:
        """Return the name of the package in jobs."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Return the title for users."""
        return (
            f"{self.package.manifest.title} ({self.package.manifest.version})" if self.package else printable(self.name)
        )

    @property
    def origin(self) -> str:
        """Return "shipped", "imported" or "unusable"."""
        return "unusable" if self.problem else "shipped" if self.shipped else "imported"


def rows() -> Iterator[Row]:
    """Yield a row for every folder of packages, shipped ones first; up to 50 ms each."""
    shipped = _folders(shipped_packages_dir())
    for folder in shipped:
        yield _row(folder, shipped=True)
    shipped_names = {folder.name for folder in shipped}
    for folder in _folders(user_packages_dir()):
        yield _hidden_row(folder) if folder.name in shipped_names else _row(folder, shipped=False)


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return []


def _hidden_row(folder: Path) -> Row:
    """Return the row of an imported package with the name of a shipped one, which is used in its place."""
    problem = "a package of this name ships with CardiacLDM and is used instead"
    return Row(folder, False, _size(folder), None, f"{printable(folder.name)} is not used: {problem}.")


def _row(folder: Path, shipped: bool) -> Row:
    size = _size(folder)
    try:
        return Row(folder, shipped, size, open_package(folder, check_hashes=size <= HASHED_BYTES))
    except PackageError as error:
        return Row(folder, shipped, size, None, str(error))


def _size(folder: Path) -> int:
    """Return the size of the files in a folder, in bytes; of those that can be read."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_size
    return total


def remove(row: Row) -> None:
    """Remove an imported package. Raises :class:`PackageError`."""
    if row.shipped or row.folder.parent != user_packages_dir():
        raise PackageError(f"{printable(row.name)} ships with CardiacLDM and cannot be removed.")
    try:
        remove_folder(row.folder)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise PackageError(f"{printable(row.name)} could not be removed: {reason}.") from error


# --- cards ---------------------------------------------------------------------------------------------------------


def card(row: Row) -> str:
    """Return the card of a package as HTML for a text browser. The package's texts are escaped."""
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
        "Trained on": f"{training.data.rstrip('.')}. {plural(training.cases, 'case')}, {training.date}.",
        "Licence": manifest.licence,
        "Size": f"{size_text(row.size_bytes)} ({'ships with CardiacLDM' if row.shipped else 'imported'}{checked})",
        "Name": f"{row.name}, version {manifest.version}",
        "SHA-256": f"{row.package.sha256[:16]}...",
    }
    if manifest.generator is not None:
        facts |= {f"Condition {name}": values for name, values in manifest.generator.conditions().items()}
    return "".join(f"<p><b>{escape(name)}:</b> {escape(text)}</p>" for name, text in facts.items())


def _figures(figures: list[Figure]) -> Iterator[str]:
    """Yield a table of figures for each data set on which they were measured."""
    if not figures:
        yield "<p><b>Figures:</b> none were measured.</p>"
    groups: dict[tuple, list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.on, figure.cases, figure.date), []).append(figure)
    for (on, cases, date), group in groups.items():
        yield f"<p><b>Figures</b> on {escape(on)}, {plural(cases, 'case')}, {date}:</p>{_table(group)}"


def _table(figures: list[Figure]) -> str:
    """Return figures with names such as "Dice LA" as a table: a row for LA, a column for Dice."""
    measures: dict[str, str] = {}
    values: dict[str, dict[str, float]] = {}
    for figure in figures:
        measure, _, subject = figure.name.partition(" ")
        measures.setdefault(measure, f"{measure}, {figure.unit}" if figure.unit else measure)
        values.setdefault(subject, {})[measure] = figure.value
    head = "".join(f"<th align='right'>{escape(title)}</th>" for title in measures.values())
    lines = [
        f"<tr><td>{escape(subject)}</td>"
        + "".join(f"<td align='right'>{_number(row.get(measure))}</td>" for measure in measures)
        + "</tr>"
        for subject, row in values.items()
    ]
    return f"<table cellspacing='0' cellpadding='3'><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
