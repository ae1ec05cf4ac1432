"""``cardiacldm fidelity``: compare generated pairs with held-out cases; ``fidelity blind``: let a person compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import plural

from .common import DeviceOption, counted_progress, report_errors, say

if TYPE_CHECKING:
    from CardiacLDMLib.generation.generator import Generator

    from ..evaluation.fidelity.cases import CaseSet, View

#: Folder, within that of the report, of the pairs that were generated for it; within the cache, of features of images.
PAIRS, FEATURES = "pairs", "features"
#: Folder of virtual references within that of the report, and the seed that no shipped package has seen.
REFERENCES, REFERENCE_SEED = "references", 90022

app = typer.Typer()


@app.callback(invoke_without_command=True)
@report_errors()
def fidelity(
    context: typer.Context,
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of held-out labelled cases.", show_default=False)] = None,
    virtual: Annotated[
        int, typer.Option(min=0, help="Make that many virtual cases to compare with, instead of --data; 60 is usual.")
    ] = 0,
    anatomies: Annotated[
        Path | None, typer.Option(help="With --virtual: folder of label maps to deform, as for the cohort.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.", show_default=False)] = None,
    generated: Annotated[Path | None, typer.Option(help="Folder of existing pairs to evaluate.")] = None,
    package: Annotated[str | None, typer.Option(help="Generator package: a name or a folder.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Pairs to generate, if none are given.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another seed generates other pairs.")] = 0,
    segmenter: Annotated[
        str | None, typer.Option(help="Segmenter package, for features and agreement. Without it, the one shipped.")
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(help="Generator's training cases, for memorisation and training on pairs; may be repeated."),
    ] = None,
    train_steps: Annotated[
        int, typer.Option(min=0, help="Steps of the small networks trained on pairs and on cases; 0: none.")
    ] = 600,
    curve: Annotated[
        int, typer.Option(min=0, help="Pairs to generate for each solver and number of evaluations; 0: none.")
    ] = 0,
    device: DeviceOption = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Where prepared cases go; .prepared in each folder if not given.")
    ] = None,
) -> None:
    """Measure the fidelity of generated pairs, each figure beside that of held-out cases among themselves.

    Evaluates the folder --generated, or --count pairs of --package, which are kept in OUT/pairs. Cases may have any
    grid: all are resampled to that of the pairs. Writes report.json, report.md and pictures. With --train it also
    measures memorisation, and what a small network learns from pairs instead of training cases. Figures of sets are
    also measured on references with known faults, which shows what a figure cannot see.
    """
    if context.invoked_subcommand:
        return
    from CardiacLDMLib.generation.generator import Generator
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder

    from ..cases.readers.layouts import find_cases
    from ..cases.store import prepared_folder
    from ..errors import EvaluationError
    from ..evaluation.ablation import Budget
    from ..evaluation.fidelity import solvers
    from ..evaluation.fidelity.cases import has_texture, open_case_set
    from ..evaluation.fidelity.examiner import Examiner
    from ..evaluation.fidelity.markdown import REPAIR_FILE
    from ..evaluation.fidelity.measures import measure_fidelity, package_label
    from ..evaluation.fidelity.report import write_report

    if out is None or (data is None) == (virtual == 0):
        raise EvaluationError("Name a folder --out for the report, and either --data or a number of --virtual cases.")
    if generated is None and package is None:
        raise EvaluationError("Name a generator --package, or a folder of --generated pairs.")
    if curve and package is None:
        raise EvaluationError("A --curve needs a generator --package.")
    for folder in (*([data] if data else []), *(train or [])):
        find_cases(folder)  # a wrong folder is refused before pairs are generated, which may take minutes
    check_folder(out)
    references_at = data or out / REFERENCES
    examiner = Examiner(find_package(segmenter), device, prepared_folder(references_at, cache) / FEATURES)
    if examiner.segmenter.remark:
        say(examiner.segmenter.remark)
    generator = Generator(find_package(package), device) if package else None
    repair = None
    if generated is None and generator is not None:
        generated = out / PAIRS
        solvers.generate_pairs(generator, count, seed, generated, say)
        repair = solvers.draw_largest_repair(generator, count, seed, generated, out / REPAIR_FILE)
    assert generated is not None
    view = _view(generated, generator)
    if virtual:
        _make_references(virtual, view.spacing_mm, anatomies, references_at)
    pairs, references = (open_case_set([folder], view, cache, say) for folder in (generated, references_at))
    report, reference_measures = measure_fidelity(
        pairs, references, open_case_set(train, view, cache, say) if train else None, examiner,
        budget=Budget(steps=train_steps) if train_steps else None, out=out,
        generator=package_label(generator.package) if generator else None, textured=has_texture(generated), say=say,
    )  # fmt: skip
    points = solvers.measure_curve(generator, curve, seed, examiner, reference_measures, say) if generator else []
    write_report(report.model_copy(update={"curve": points, "repair": repair}), out)
    typer.echo(f"Compared {len(pairs)} generated pairs with {len(references)} held-out cases: {out}.")
    if pairs.skipped:
        say(f"{plural(len(pairs.skipped), 'pair')} could not be used: {', '.join(pairs.skipped)}.")


def _view(generated: Path, generator: Generator | None) -> View:
    from ..cases.readers.layouts import find_cases
    from ..evaluation.fidelity.cases import common_view
    from ..evaluation.fidelity.solvers import generator_view

    return generator_view(generator) if generator else common_view(find_cases(generated))


def _make_references(count: int, spacing_mm: float, anatomies: Path | None, out: Path) -> None:
    """Make virtual cases as hospitals scan; those that are there already are kept."""
    from ..virtual.cohort import PRESETS, CohortSettings, write_cohort
    from .cohort import Preset

    settings = CohortSettings(
        seed=REFERENCE_SEED, spacing_mm=spacing_mm, anatomies=anatomies, **PRESETS[Preset.REALISTIC]
    )
    with counted_progress("Virtual references", count) as update:
        failed = write_cohort(settings, count, out, os.cpu_count() or 1, update)
    for line in failed:
        say(f"Failed: {line}")


@app.command("blind")
@report_errors()
def blind(
    *,
    out: Annotated[Path, typer.Option(help="The page to write, NAME.html.", show_default=False)],
    generated: Annotated[
        list[Path] | None, typer.Option(help="Folder of generated pairs; may be repeated.", show_default=False)
    ] = None,
    virtual: Annotated[
        list[Path] | None, typer.Option(help="Folder of virtual cases; may be repeated.", show_default=False)
    ] = None,
    real: Annotated[
        list[Path] | None, typer.Option(help="Folder of labelled real scans; may be repeated.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Slices of each kind.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other slices.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Where prepared cases go; .prepared in each folder if not given.")
    ] = None,
) -> None:
    """Write a page on which a person says of shuffled slices: real, virtual or generated. It needs two kinds or more.

    The page is one file for any browser. It keeps the answers there, scores them at the end, and saves them as a table.
    No name of a case is in it. All slices have the grid of the generated pairs.
    """
    from CardiacLDMLib.files import write_text

    from ..cases.readers.layouts import find_cases
    from ..errors import EvaluationError
    from ..evaluation.fidelity.blind import make_blind_test
    from ..evaluation.fidelity.cases import DEFAULT_VIEW, common_view, open_case_set

    folders = {"real": real, "virtual": virtual, "generated": generated}
    given = {kind: paths for kind, paths in folders.items() if paths}
    if len(given) < 2:
        raise EvaluationError("Name folders of two kinds at least: --real, --virtual, --generated.")
    files = {kind: [case for path in paths for case in find_cases(path)] for kind, paths in given.items()}
    view = common_view(files["generated"]) if "generated" in given else DEFAULT_VIEW
    sets: dict[str, CaseSet] = {kind: open_case_set(paths, view, cache, say) for kind, paths in given.items()}
    write_text(out, make_blind_test(sets, count, seed))
    slices = plural(count * len(sets), "slice")
    typer.echo(f"Wrote {out} with {slices} of {', '.join(sets)} cases. Open it in a browser.")
