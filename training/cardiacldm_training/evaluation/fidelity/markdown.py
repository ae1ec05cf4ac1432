"""The fidelity report as text: ``report.md``, and its part of a model card."""

from __future__ import annotations

from collections.abc import Sequence

from .compare import SPLITS, Comparison, Spread
from .conditions import LEAST_EXPLAINED, ConditionRow
from .labels import VolumeRow
from .memorisation import NEIGHBOURS, Memorisation
from .record import CurvePoint, Repair, Report
from .utility import Utility

#: Files of the pictures that the report shows.
VOLUMES_FILE, SPECTRA_FILE, QUALITY_FILE, REPAIR_FILE = "volumes.png", "spectra.png", "quality.png", "repair.png"

_HEAD = "| figure | generated | reference | unit | n |\n|---|---|---|---|---|"


def markdown(report: Report) -> str:
    """Return report.md: every figure with its reference and number of cases."""
    grid = " x ".join(map(str, report.grid))
    parts = [
        f"# Fidelity of {report.generated}",
        f"{report.sizes['generated']} generated pairs against {report.sizes['data']} held-out cases of {report.data}, "
        f"on {grid} voxels of {report.spacing_mm:g} mm; {report.date}, version {report.code_version}."
        + (f" Generator: {report.package}." if report.package else "")
        + f" Segmenter: {report.segmenter}.",
        f"A *distance* is the mean (and standard deviation) over {SPLITS} random splits: generated pairs against half "
        "of the references and, under *reference*, the other half against it, n cases each. A perfect generator "
        "reaches the reference, not 0. Other figures are means (and standard deviations) over cases.",
        *(part for key in _SECTIONS for part in _section(report, key)),
        *_conditions_part(report.conditions),
        "## Volumes of the structures",
        _volumes_table(report.volumes),
        "Whole structures and those cut by the grid's edge are compared apart. Cases as generated / reference; "
        "Wasserstein distance in mL.",
        f"![volumes]({VOLUMES_FILE})",
        "## Noise",
        _NOISE[report.textured],
        f"![noise-power spectra]({SPECTRA_FILE})",
        *_repair_part(report.repair),
        *_memorisation_part(report.replicas),
        *_utility_part(report.utility),
        *_curve_part(report.curve),
        *_list_part("## Left out", report.left_out),
        *_list_part(
            "## Cases not used", [f"{s}/{c}: {why}" for s, cs in report.skipped.items() for c, why in cs.items()]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def comparisons(report: Report) -> list[Comparison]:
    """Return every figure that has a reference, in the order of the report."""
    figures = [measured for key in _SECTIONS for measured in report.measured.get(key, [])]
    figures += [report.replicas.rate] if report.replicas else []
    return figures + ([report.utility.dice] if report.utility else [])


def card_section(report: Report) -> str:
    """Return the report as a part of a model card: without title, pictures and instructions.

    It names no case, because a package is published and a name may identify a patient.
    """
    replicas = report.replicas and report.replicas.model_copy(update={"found": []})
    unnamed = report.model_copy(update={"replicas": replicas, "skipped": {}})
    texts = [part for part in markdown(unnamed).split("\n\n")[1:] if part != _NOISE[report.textured]]
    parts = [part for part in texts if not part.startswith("![") and part != "## Noise"]
    return "\n\n".join(part.replace("## ", "### ", 1) if part.startswith("## ") else part for part in parts).strip()


#: Sections of the report by their key in ``measured``.
_SECTIONS = {
    "acceptance": "## Acceptance: the share that `generate` rejects (without the check of memorisation)",
    "agreement": "## Agreement of labels with a segmenter's labels of the image (Dice)",
    "features": "## Sets of images, by features of slices and of the heart",
    "diversity": "## Diversity (MS-SSIM between images; low is diverse)",
    "anatomy": "## Plausibility of the labels",
    "surroundings": "## Around the heart, away from the labels: bone, lungs, soft tissue",
    "texture": "## Texture: noise inside tissues",
}


_NOISE = {
    False: "The entry `remedy` of report.json is the noise that the pairs lack, by tissue, and `tone` the curve that "
    "corrects their HU around the heart: `train export --texture` makes a package apply both.",
    True: "The package corrected tone or texture of these pairs. The entries `remedy` and `tone` of report.json are "
    "what remains to be corrected.",
}


def _section(report: Report, key: str) -> list[str]:
    """Return a section of comparisons; figures of corrupted references go into columns of their own."""
    rows = report.measured.get(key)
    if not rows:
        return []
    corruptions = list(dict.fromkeys(name for row in rows for name in row.corrupted))
    if not corruptions:
        return [f"{_SECTIONS[key]}\n\n{_table(rows)}"]
    head = (
        "| figure | generated | reference | "
        + " | ".join(corruptions)
        + " | n |\n"
        + "|---" * (4 + len(corruptions))
        + "|"
    )
    lines = [
        "| " + " | ".join([
            row.name, _cell(row.generated), _cell(row.reference), *(_corrupted(row, name) for name in corruptions),
            str(row.cases),
        ]) + " |"
        for row in rows
    ]  # fmt: skip
    return [f"{_SECTIONS[key]}\n\n" + "\n".join([head, *lines]), _CORRUPTED]


_CORRUPTED = (
    "The last columns are the same figures of true cases after a known corruption. *Not told* stands where a figure "
    "does not differ from the reference by two standard deviations: such a figure is blind for this fault. Of shares "
    "(precision, recall) more is better; a classifier that cannot tell the sets apart is right in half of the cases."
)


def _corrupted(row: Comparison, name: str) -> str:
    if name not in row.corrupted:
        return "-"
    return _cell(row.corrupted[name]) + ("" if row.tells(name) else ", *not told*")


def _conditions_part(rows: Sequence[ConditionRow]) -> list[str]:
    if not rows:
        return []
    lines = [
        "| condition | measurement | by value: generated / reference (n) | explained | reference |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        values = "; ".join(
            f"{v.value} {_number(v.generated)} / {_number(v.reference)} ({v.cases[0]} / {v.cases[1]})"
            for v in row.values
        )
        name = f"{row.measure}, {row.unit}"
        ours, theirs = (_share(value) for value in row.explained)
        lines.append(f"| {row.condition} | {name} | {values} | {ours} | {theirs}{_judge(row)} |")
    return [
        "## Conditions: do pairs follow them?",
        "\n".join(lines),
        "*Explained*: share of the variance between cases that the condition explains. Where it is small in the "
        "references, the measurement cannot judge the condition (*no judge*).",
    ]


def _judge(row: ConditionRow) -> str:
    theirs = row.explained[1]
    return ", *no judge*" if theirs is None or theirs < LEAST_EXPLAINED else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _table(rows: Sequence[Comparison]) -> str:
    return "\n".join([_HEAD, *map(_line, rows)])


def _line(m: Comparison) -> str:
    n = f"{m.cases}" if m.cases == m.reference_cases else f"{m.cases} / {m.reference_cases}"
    name = f"{m.name} (distance)" if m.kind == "distance" else m.name
    return f"| {name} | {_cell(m.generated)} | {_cell(m.reference)} | {m.unit} | {n} |"


def _cell(value: Spread) -> str:
    return f"{value.mean:.3g} ({value.sd:.2g})"


def _volumes_table(rows: Sequence[VolumeRow]) -> str:
    lines = [
        "| structure | whole | cut | missing | mean mL | distance, whole | reference | distance, cut | reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        means = " / ".join("-" if m is None else f"{m:.0f}" for m in row.mean_ml)
        cells = [*_distance_cells(row.distance), *_distance_cells(row.distance_cut)]
        counts = [f"{ours} / {theirs}" for ours, theirs in (row.whole, row.cut, row.missing)]
        lines.append(f"| {row.structure} | {' | '.join(counts)} | {means} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _distance_cells(m: Comparison | None) -> tuple[str, str]:
    return (_cell(m.generated), f"{_cell(m.reference)}, n {m.cases}") if m else ("-", "-")


def _repair_part(repair: Repair | None) -> list[str]:
    if repair is None:
        return []
    return [
        "## Clean-up of generated labels",
        f"It changed {repair.mean:.1f} voxels of a pair on average, most in {repair.pair}: {repair.voxels} of "
        f"{repair.labelled} labelled ones.",
        f"![before and after]({REPAIR_FILE})",
    ]


def _memorisation_part(memorisation: Memorisation | None) -> list[str]:
    if memorisation is None:
        return []
    rows = [f"{r.pair}: {r.case}, {r.distance:g}" for r in memorisation.found]
    return [
        f"## Memorised training cases\n\n{_HEAD}\n{_line(memorisation.rate)}",
        f"Distance to the nearest of {memorisation.training_cases} training cases, over flips and shifts, relative to "
        f"the next {NEIGHBOURS}: median {memorisation.median_generated:.3f}; of held-out cases "
        f"{memorisation.median_reference:.3f}. A pair below {memorisation.threshold:.3f} counts as memorised: one "
        "training case in a hundred is that near to the others. The reference rate is that of the held-out cases.",
        *_list_part("Memorised pairs (pair, training case, distance):", rows),
    ]


def _utility_part(utility: Utility | None) -> list[str]:
    if utility is None:
        return []
    lines = [f"| {name} | {ours:.3f} | {theirs:.3f} |" for name, (ours, theirs) in utility.structures.items()]
    return [
        f"## Downstream utility: train on generated pairs, test on held-out cases\n\n{_HEAD}\n{_line(utility.dice)}",
        f"The same small network for {utility.steps} steps on as many generated pairs as training cases, "
        f"{utility.seeds} seeds each, tested on {utility.held_out} held-out cases.",
        "| structure | trained on generated | trained on training cases |\n|---|---|---|\n" + "\n".join(lines),
    ]


def _curve_part(curve: Sequence[CurvePoint]) -> list[str]:
    if not curve:
        return []
    lines = [
        "| solver | evaluations | steps | restarts | pairs | unusable | Frechet | reference | MMD | Dice | plausible "
        "| s a pair |",
        "|---" * 12 + "|",
    ]
    for p in curve:
        distances = (_cell(p.frechet.generated), _cell(p.frechet.reference)) if p.frechet else ("-", "-")
        cells = (p.solver, p.evaluations, p.steps, p.restarts, p.pairs, p.unusable, *distances,
                 _cell(p.mmd.generated) if p.mmd else "-", _cell(p.dice) if p.dice else "-", f"{p.sound:.0%}",
                 f"{p.seconds:.2f}")  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return ["## Quality against evaluations of the network", "\n".join(lines), f"![quality]({QUALITY_FILE})"]


def _list_part(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []
