"""``cardiacldm data``: what a folder of cases holds, and its split by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib import anatomy
from CardiacLDMLib.text import join_words, plural

from ..errors import ConfigError, DatasetError
from .common import FAILED, counted_progress, make_console, report_errors, say, tell
from .data_options import LayoutOption, MapOption, reading_of

if TYPE_CHECKING:
    from rich.table import Table

    from ..cases.inspection import CaseFacts
    from ..cases.readers.files import ImageFiles

app = typer.Typer(no_args_is_help=True, help="Look at folders of cases, and split them by patient.")

_Folders = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders of cases, or tables of cases (CSV).", show_default=False)
]
#: Width of tables where there is no terminal, in characters.
_WIDTH = 200
#: Most remarks shown for a case.
_MOST_REMARKS = 3


@app.command()
@report_errors()
def check(
    folders: _Folders,
    *,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Show what is understood of folders: cases, structures, spacings, HU, odd labels, scans that occur twice.

    A case that cannot be used is named with the reason, and the others go on. The exit code is 1 if there is one, or a
    scan that occurs twice, or a patient on two sides.
    """
    from ..cases.inspection import copies as find_copies
    from ..cases.inspection import inspect, leaks
    from ..cases.workers import run_unordered

    cases = _cases(folders, layout, labels_map)
    found: dict[int, CaseFacts] = {}
    with counted_progress("Cases", len(cases)) as update:
        for index, fact in run_unordered(inspect, [(case,) for case in cases], min(workers, max(len(cases), 1))):
            found[index] = fact
            update(len(found))
    facts = [found[index] for index in range(len(cases))]
    usable, bad = [fact for fact in facts if not fact.problem], [fact for fact in facts if fact.problem]
    _show(_case_table(usable), _structure_table([fact for fact in usable if fact.labelled]))
    for fact in bad:
        tell(f"Cannot be used: {fact.name}: {fact.problem}")
    copies, leaking = find_copies(facts), leaks(facts)
    for same in copies:
        tell(f"One scan under {len(same)} names: {', '.join(fact.name for fact in same)}.")
    for sentence in leaking:
        tell(sentence)
    tell(_summary(usable, bad, len(copies), len(leaking)))
    if bad or copies or leaking:
        raise typer.Exit(FAILED)


@app.command()
@report_errors()
def split(
    folders: _Folders,
    *,
    out: Annotated[Path, typer.Option(help="File for the split.", show_default=False)],
    folds: Annotated[int, typer.Option(min=2, max=1000, help="Number of folds.")] = 5,
    test: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the cases that only test.")] = 0.0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="What tells the patient: a column of the data's table, a CSV file with case and patient, or a regular "
            "expression for names of cases. Without it, the layout tells, or every case is a patient."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    layout: LayoutOption = None,
    extend: Annotated[bool, typer.Option("--extend", help="Keep the split in --out, and add new cases.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing split.")] = False,
) -> None:
    """Split cases by patient into folds, as one file that training and evaluation read.

    A patient is never on two sides, nor are two patients with the same scan. A data set's own test cases only test.
    """
    from ..cases.readers.cases import check_files
    from ..cases.splits import groups_of, joined_groups, make_splits, read_splits, write_splits

    if out.exists() and not extend and not overwrite:
        raise ConfigError(f"{out} exists: choose --extend to add new cases, or --overwrite to replace it.")
    known = read_splits(out) if extend else None
    cases = {}
    for case in _cases(folders, layout, None, full_names=True):
        try:
            check_files(case)
            cases[case.name] = case
        except ValueError as error:
            say(f"Left out: {case.name}: {error}")
    group_by = group_by or (known.group_by or None if known else None)
    groups, same = joined_groups(groups_of(cases, group_by), _digests(cases))
    for names in same:
        say(f"{', '.join(names)} have the same scan and stay on one side.")
    splits = make_splits(
        groups, known.folds if known else folds, test=test, seed=known.seed if known else seed,
        group_by=group_by or "", tests=[name for name, case in cases.items() if case.part == "test"], known=known,
    )  # fmt: skip
    write_splits(splits, out)
    sizes = Counter(case.fold for case in splits.cases.values())
    parts = [plural(sizes[None], "test case")] if sizes[None] else []
    each = ", ".join(str(sizes[fold]) for fold in range(splits.folds))
    patients = plural(len({case.group for case in splits.cases.values()}), "patient")
    told = "; ".join([f"{plural(splits.folds, 'fold')} of {each} cases", *parts])
    tell(f"{out}: {plural(len(splits.cases), 'case')} of {patients}; {told}.")


def _digests(cases: dict[str, ImageFiles]) -> dict[str, str]:
    from ..cases.readers.cases import scan_files
    from ..cases.splits import scan_digest

    digests = {}
    with counted_progress("Scans", len(cases)) as update:
        for number, (name, case) in enumerate(cases.items(), start=1):
            digests[name] = scan_digest(scan_files(case)) + case.series
            update(number)
    return digests


def _cases(
    folders: Sequence[Path], layout: str | None, labels_map: Path | None, *, full_names: bool = False
) -> list[ImageFiles]:
    """Return the cases of all folders, and say which layouts they have; names include the folder's if necessary."""
    from ..cases.readers.layouts import find_images, layout_of, other_layouts
    from ..cases.store import full_name

    reading = reading_of(layout, labels_map)
    cases: list[ImageFiles] = []
    for folder in folders:
        kind = layout_of(folder, layout)
        found = find_images(folder, reading)
        tell(f"{folder}: layout {kind.NAME} ({kind.ABOUT}), {plural(len(found), 'case')}.")
        others = other_layouts(folder, kind) if layout is None else []
        if others:
            say(f"{folder} also looks like {join_words(others)}: choose with --layout.")
        several = full_names or len(folders) > 1
        cases += [replace(case, name=full_name(folder, case.name)) if several else case for case in found]
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        raise DatasetError(f"Two cases are called {twice[0]}: give their folders different names.")
    return cases


# --- tables --------------------------------------------------------------------------------------------------------


def _show(*tables: Table) -> None:
    console = make_console(stderr=False)
    if not console.is_terminal:
        console.width = _WIDTH
    for table in tables:
        if table.row_count:
            console.print(table)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _case_table(facts: Sequence[CaseFacts]) -> Table:
    from CardiacLDMLib.segmentation.findings import sentence

    table = _table("case", "part", "voxels", "spacing mm", "HU", "structures", "unknown", "remarks")
    for fact in facts:
        remarks = [*fact.notes, *(sentence(finding) for finding in fact.findings)]
        more = [f"{len(remarks) - _MOST_REMARKS} more."] if len(remarks) > _MOST_REMARKS else []
        if fact.ignored:
            remarks.insert(0, f"{fact.ignored:.1%} of the voxels teach nothing.")
        table.add_row(
            fact.name, fact.part or ("" if fact.labelled else "no labels"), " x ".join(map(str, fact.shape)),
            " x ".join(f"{s:.3g}" for s in fact.spacing), f"{fact.hu[0]:.0f} to {fact.hu[1]:.0f}",
            " ".join(fact.present), " ".join(fact.unknown), " ".join([*remarks[:_MOST_REMARKS], *more]),
        )  # fmt: skip
    return table


def _structure_table(facts: Sequence[CaseFacts]) -> Table:
    import numpy as np

    table = _table("structure", "labelled", "absent", "unknown", "median mL", "range mL", "unusual")
    for name in anatomy.NAMES if facts else ():
        volumes = [dict(fact.volumes)[name] for fact in facts if name in dict(fact.volumes)]
        found = [volume for volume in volumes if volume]
        unusual = sum(any(f.rule == "volume" and name in f.structures for f in fact.findings) for fact in facts)
        spread = (f"{np.median(found):.0f}", f"{min(found):.0f} to {max(found):.0f}") if found else ("", "")
        table.add_row(
            name, str(len(found)), str(len(volumes) - len(found)), str(sum(name in fact.unknown for fact in facts)),
            *spread, str(unusual),
        )  # fmt: skip
    return table


def _summary(usable: Sequence[CaseFacts], bad: Sequence[CaseFacts], copies: int, leaks: int) -> str:
    """Return one line on all cases."""
    labelled = [fact for fact in usable if fact.labelled]
    parts = [f"{len(usable)} of {plural(len(usable) + len(bad), 'case')} can be used, {len(labelled)} with labels"]
    unknown = [name for name in anatomy.NAMES if any(name in fact.unknown for fact in labelled)]
    if unknown:
        parts.append(f"{join_words(unknown)} unknown or labelled in part")
    odd = sum(bool(fact.findings) for fact in labelled)
    if odd:
        parts.append(f"odd labels in {odd}")
    if copies:
        parts.append(plural(copies, "scan") + " under several names")
    if leaks:
        parts.append(plural(leaks, "leak") + " between patients")
    return "; ".join(parts) + "."
