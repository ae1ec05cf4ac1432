"""The report of an experiment: ``report.md``, ``report.json`` (all figures), ``forest.png`` and ``curves.png``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import write_text
from CardiacLDMLib.text import join_words, plural

from ...results.pictures import write_figures
from ..metrics import TOLERANCE_MM
from ..statistics import Interval, smallest_p
from .comparison import (
    FEW_CASES,
    ArmResult,
    Finding,
    ProtocolResult,
    Range,
    Report,
    TestResult,
    Training,
    compare,
    signed,
)  # fmt: skip
from .figures import draw_curves, draw_forest
from .plan import Arm, Endpoint, Folders, Plan, Protocol
from .rows import Row

JSON_FILE, MARKDOWN_FILE, FOREST_FILE, CURVES_FILE = "report.json", "report.md", "forest.png", "curves.png"
#: Seeds that a claim of half a point of Dice needs. With fewer, sentences speak of these seeds only.
ENOUGH_SEEDS = 6
#: Names, units and decimals of the measures.
_MEASURES = {"dice": ("Dice", "", 3), "hd95_mm": ("HD95", " mm", 1), "nsd": ("NSD", "", 3)}


def write_report(plan: Plan, rows: Sequence[Row], out: Path) -> Report:
    """Compare the rows that there are, write the four files, and return all figures. Raises OutputError."""
    report = compare(plan, rows)
    write_text(out / JSON_FILE, report.model_dump_json(indent=1) + "\n")
    write_text(out / MARKDOWN_FILE, markdown(plan, report))
    write_figures({FOREST_FILE: draw_forest(report), CURVES_FILE: draw_curves(plan, rows)}, out)
    return report


# --- sentences -----------------------------------------------------------------------------------------------------


def describe_endpoint(end: Endpoint) -> str:
    """Return what an endpoint compares, as in "Dice, mean over the structures, on virtual, protocol equal updates"."""
    what = "mean over the structures" if end.structure == "mean" else end.structure
    lower = ", lower is better" if end.measure == "hd95_mm" else ""
    return f"{_MEASURES[end.measure][0]} ({what}{lower}) on {end.test}, protocol {end.protocol}"


def describe_finding(finding: Finding) -> str:
    """Return what an endpoint says about an arm, as one sentence with the numbers."""
    name, unit, decimals = _MEASURES[finding.endpoint.measure]
    arm, baseline, difference = finding.arm, finding.baseline, finding.difference
    if difference is None:
        common = plural(finding.seeds, "seed") if finding.seeds < 2 else "no score"
        return f"{arm} is not compared with {baseline}: they have {common} in common so far."
    sample = f"{plural(finding.seeds, 'seed')}, {plural(finding.cases, 'case')}"
    numbers = (
        f"{name} {finding.mean:.{decimals}f} against {finding.baseline_mean:.{decimals}f}{unit}, "
        f"{signed(difference, decimals + 1)}{unit}; {sample}."
    )
    if finding.verdict == "no difference found":
        return f"No difference found between {arm} and {baseline}: {numbers}"
    limits = f" with these {plural(finding.seeds, 'seed')}" if finding.seeds < ENOUGH_SEEDS else ""
    limits += f" on these {plural(finding.cases, 'case')}" if finding.cases <= FEW_CASES else ""
    return f"{arm} is {finding.verdict} than {baseline}{limits}: {numbers}"


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(plan: Plan, report: Report) -> str:
    """Return report.md: the endpoints, then the tables of each protocol."""
    lacking = sum(len(missing.seeds) for missing in report.missing)
    parts = [
        f"# {_plain(report.title)}",
        f"{report.date}, version {report.code_version}; {plural(len(plan.seeds), 'seed')} for each arm, "
        f"{report.runs - lacking} of {plural(report.runs, 'run')}.",
        *(["**Incomplete**: figures are of the runs that are done. [What is missing](#missing)."] if lacking else []),
        "## Primary endpoint",
        "The endpoints were fixed in the plan before the first run.",
        _finding_part(report.primary, plan.primary),
        "Intervals are not adjusted for the number of comparisons.",
        *(["## Secondary endpoints"] if plan.secondary else []),
        *(_finding_part([f for f in report.secondary if f.endpoint == end], end) for end in plan.secondary),
        f"![differences from the baselines]({FOREST_FILE})",
        "## Arms and test sets",
        _arms_table(plan),
        "\n".join(f"- {_plain(line)}" for line in _test_sets(plan, report)),
    ]  # fmt: skip
    for result in report.protocols:
        parts += _protocol_part(plan, result)
    parts += ["## Learning curves", f"![Dice on the validation cases over updates]({CURVES_FILE})", _CURVES_NOTE]
    parts += ["## How it was measured", _notes(plan, report)]
    if lacking:
        rows = [(_plain(m.protocol), _plain(m.arm), join_words([str(s) for s in m.seeds])) for m in report.missing]
        parts += ["## Missing", _table(("protocol", "arm", "seeds"), rows)]
    return "\n\n".join(parts) + "\n"


_CURVES_NOTE = (
    "Black: the baseline. Line and band: mean and range over the seeds, as long as all are in training. Thin lines: "
    "seeds that trained longer. The first validations may lie below a panel."
)


def _plain(text: str) -> str:
    """Return a text in which no character is Markdown."""
    return re.sub(r"([\\`*_|<\[\]#~])", r"\\\1", text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finding_part(findings: Sequence[Finding], end: Endpoint) -> str:
    lines = [f"- {_plain(describe_finding(finding))}" for finding in findings]
    return f"**{_plain(describe_endpoint(end))}**:\n\n" + ("\n".join(lines) or "- The protocol has the baseline alone.")


def _arms_table(plan: Plan) -> str:
    head = ("arm", "start", "trained on", "pairs mixed in for each case")
    rows = [[_plain(text) for text in (name, *_describe_arm(plan, arm))] for name, arm in plan.arms.items()]
    return _table(head, rows)


def _describe_arm(plan: Plan, arm: Arm) -> tuple[str, str, str]:
    start = "random weights"
    if arm.pretraining is not None:
        before = plan.pretrainings[arm.pretraining]
        start = f"encoder of {before.steps} steps on images of {before.images}, mask {before.mask.kind}"
    return start, join_words(arm.train), "-" if arm.mix is None else f"{arm.share:g} of {arm.mix}"


def _test_sets(plan: Plan, report: Report) -> list[str]:
    """Return a line about each test set. Without rows the number of cases is that of the plan, if it names one."""
    lines = []
    for test in plan.tests:
        source = plan.sets[test]
        found = [result.cases for protocol in report.protocols for result in protocol.tests if result.test == test]
        count = max(found, default=0) or source.cases
        text = plural(count, "case") if count else "cases"
        virtual = "" if isinstance(source, Folders) else f", virtual ({source.appearance}, seed {source.seed})"
        few = " Its intervals describe these cases and no others." if count and count <= FEW_CASES else ""
        lines.append(f"{test}: {text}{virtual}.{few}")
    return lines


def _protocol_part(plan: Plan, result: ProtocolResult) -> list[str]:
    parts = [f"## Protocol: {_plain(result.protocol)}", _describe_protocol(plan.protocols[result.protocol])]
    if not result.trainings:
        return [*parts, "No run is done yet."]
    parts.append(_training_table(result.trainings))
    for test in result.tests:
        title = f"### {_plain(result.protocol)}: {_plain(test.test)}, {plural(test.cases, 'case')}"
        parts += [title, _score_table(test, result.baseline), _structure_table(test)]
        parts += [_case_table(test)] if any(arm.cases for arm in test.arms) else []
    return parts


def _describe_protocol(protocol: Protocol) -> str:
    if protocol.steps is not None:
        budget = f"{protocol.steps} updates of each arm, validated {plural(protocol.validations, 'time')}"
    else:
        budget = f"Until the validation has not risen for {protocol.patience} epochs, at most {protocol.epochs}"
    parts = [f"{budget}; the best weights are tested. Baseline: {_plain(protocol.baseline)}."]
    if protocol.labels is not None:
        parts.append(f"Only the first {protocol.labels} training cases.")
    if protocol.frozen_steps or protocol.encoder_rate < 1:
        parts.append(
            f"A pre-trained encoder is frozen for {plural(protocol.frozen_steps, 'step')} and then learns at "
            f"{protocol.encoder_rate:g} of the rate."
        )
    return " ".join(parts)


def _training_table(trainings: Sequence[Training]) -> str:
    head = (
        "arm",
        "seeds",
        "cases + pairs",
        "updates",
        "tested step",
        "stopped early",
        "core-seconds",
        "before",
    )
    rows = [
        (_plain(t.arm), str(len(t.seeds)), f"{t.cases} + {t.pairs}", _range(t.updates), _range(t.best_step),
         f"{t.stopped_early} of {len(t.seeds)}", f"{t.core_seconds:.0f}", f"{t.pretraining_core_seconds:.0f}")
        for t in trainings
    ]  # fmt: skip
    return _table(head, rows)


def _range(value: Range) -> str:
    spread = "" if value.low == value.high else f" ({value.low:.0f} to {value.high:.0f})"
    return f"{value.mean:.0f}{spread}"


def _score_table(test: TestResult, baseline: str) -> str:
    head = ("arm", "Dice", "difference from the baseline", "HD95, mm", "NSD", "missed", "extra")
    rows = []
    for arm in test.arms:
        difference = arm.differences["dice"]
        shift = "baseline" if arm.arm == baseline else "not compared" if difference is None else signed(difference, 4)
        dice, hd95, nsd = (arm.means[measure] for measure in ("dice", "hd95_mm", "nsd"))
        cells = (_with_limits(dice, 3), shift, _with_limits(hd95, 1), _with_limits(nsd, 3))
        rows.append((_plain(arm.arm), *cells, f"{arm.missed:.1f}", f"{arm.extra:.1f}"))
    return _table(head, rows)


def _with_limits(value: Interval | None, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.{decimals}f} ({value.low:.{decimals}f} to {value.high:.{decimals}f})"


def _structure_table(test: TestResult) -> str:
    rows = []
    for arm in test.arms:
        cells = []
        for part in arm.structures:
            text = "-" if part.dice is None else f"{part.dice.mean:.3f}"
            if part.difference is not None and part.holm_p is not None:
                text += f" ({part.difference.mean:+.3f}, p {part.holm_p:.2f})"
            cells.append(text)
        rows.append((_plain(arm.arm), *cells))
    left_out = sum(part.left_out for arm in test.arms for part in arm.structures)
    table = _table(("Dice", *anatomy.NAMES), rows)
    notes = _powerless(test.arms)
    if left_out:
        notes.append(f"{plural(left_out, 'pair')} left out: only one arm labelled a structure that the case lacks.")
    return "\n\n".join([table, " ".join(notes)] if notes else [table])


def _powerless(arms: Sequence[ArmResult]) -> list[str]:
    """Return a sentence if no p can be below 0.05 with so few seeds."""
    seeds = max((arm.compared_seeds for arm in arms), default=0)
    tests = max((sum(part.p is not None for part in arm.structures) for arm in arms), default=0)
    least = min(smallest_p(seeds) * tests, 1.0)
    if not tests or least < 0.05:
        return []
    return [f"With {plural(seeds, 'seed')} no p can be below {least:.2g}, whatever the data: this test cannot decide."]


def _case_table(test: TestResult) -> str:
    """Return the difference in Dice of each case, for a test set of few."""
    arms = [arm for arm in test.arms if arm.cases]
    cases = list(arms[0].cases)
    rows = [
        (_plain(arm.arm), *("not compared" if value is None else signed(value, 4) for value in arm.cases.values()))
        for arm in arms
    ]
    note = "Intervals over the seeds alone."
    return f"{_table(('difference on', *(_plain(case) for case in cases)), rows)}\n\n{note}"


def _notes(plan: Plan, report: Report) -> str:
    lines = [
        f"Scores are on the grid of the network ({plan.network.spacing_mm:g} mm), in the box around the reference "
        "labels: no locator is involved. They are means over the structures of each case.",
        f"NSD at {TOLERANCE_MM:g} mm. A missed or an extra structure counts as Dice 0, NSD 0 and the diagonal as HD95. "
        "Both are counted over all cases; the table has their mean over the networks.",
        f"Intervals: 95 %, of {report.resamples:,} resamples of seeds and cases, the same for both arms. A difference "
        "is taken seed by seed and case by case, over the seeds that both arms have.",
        "Few seeds or cases make intervals too narrow: in simulations with six seeds and 51 cases 85 to 94 % of them "
        "contained the truth, with two cases 71 %. A claim of half a point of Dice needs six seeds.",
        "Dice of the structures: in brackets the difference from the baseline, and p of the exact signed-rank test of "
        "Wilcoxon on the mean difference of each seed, adjusted by Holm for the number of structures. The least p of n "
        "seeds is 2 in 2^n, and Holm multiplies the least of all by the number of structures.",
        "Core-seconds: CPU time of one network with its validations; before: that of its pre-training, which arms with "
        "the same one share.",
        "Each protocol has its own budget: arms of different protocols are not compared.",
    ]
    return "\n".join(f"- {line}" for line in lines)
