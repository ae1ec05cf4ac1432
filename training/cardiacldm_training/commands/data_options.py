"""Options of the commands that read folders of cases: layout, meaning of labels, stored split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..cases.readers.layouts import Reading
    from ..cases.splits import Fold

LayoutOption = Annotated[
    str | None,
    typer.Option("--layout", help="Layout of the folders, such as nnunet; recognised by itself if not given."),
]
MapOption = Annotated[
    Path | None, typer.Option("--map", help="CSV file that says what labels mean: columns label, structure, whole.")
]
SplitOption = Annotated[
    Path | None, typer.Option("--split", help="Split of the cases, as cardiacldm data split writes it.")
]
FoldOption = Annotated[int | None, typer.Option("--fold", min=0, help="Fold of the split; 0 if not given.")]


def reading_of(layout: str | None, table: Path | None) -> Reading:
    """Return how folders are to be read. Raises DatasetError for a table that cannot be used."""
    from ..cases.readers.label_map import read_label_map
    from ..cases.readers.layouts import Reading

    return Reading(layout, read_label_map(table) if table else None)


def fold_of(path: Path | None, number: int | None) -> Fold | None:
    """Return the fold of a stored split; None without one. Raises DatasetError, ConfigError."""
    from ..cases.splits import read_fold

    if path is None:
        if number is not None:
            raise ConfigError("--fold needs the --split that it belongs to.")
        return None
    return read_fold(path, number or 0)
