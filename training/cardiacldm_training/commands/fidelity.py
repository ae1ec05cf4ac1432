"""``cardiacldm fidelity``: compare generated pairs with held-out cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import plural

from .common import DeviceOption, report_errors, say

if TYPE_CHECKING:
    from CardiacLDMLib.generation.generator import Generator

    from ..evaluation.fidelity.cases import View

#: Folder, within that of the report, of the pairs that were generated for it.
PAIRS = "pairs"


@report_errors()
def fidelity(
    *,
    data: Annotated[Path, typer.Option(help="Folder of held-out labelled cases.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the report.", show_default=False)],
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
    measures memorisation, and what a small network learns from pairs instead of training cases.
    """
    from CardiacLDMLib.generation.generator import Generator
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder

    from ..cases.readers.layouts import find_cases
    from ..errors import EvaluationError
    from ..evaluation.ablation import Budget
    from ..evaluation.fidelity import solvers
    from ..evaluation.fidelity.cases import has_texture, open_case_set
    from ..evaluation.fidelity.measures import Examiner, measure_fidelity, package_label
    from ..evaluation.fidelity.report import REPAIR_FILE, write_report

    if generated is None and package is None:
        raise EvaluationError("Name a generator --package, or a folder of --generated pairs.")
    if curve and package is None:
        raise EvaluationError("A --curve needs a generator --package.")
    for folder in (data, *(train or [])):
        find_cases(folder)  # a wrong folder is refused before pairs are generated, which may take minutes
    check_folder(out)
    examiner = Examiner(find_package(segmenter), device)
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
    pairs, references = (open_case_set([folder], view, cache, say) for folder in (generated, data))
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
