"""Pictures of an experiment: forest plot of the differences from the baselines, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib.text import plural

from ...results.pictures import new_figure
from .comparison import ArmResult, ProtocolResult, Report, TestResult, Verdict, arm_rows, signed
from .plan import Plan
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: dict[Verdict, str] = {"better": "#1b6ca8", "worse": "#d1495b", "no difference found": "#555555"}
#: Width of a character of an arm's name, in inches.
_CHARACTER = 0.085
#: Half the width of a panel of the forest plot in which all differences are zero.
_LEAST_WIDTH = 0.002
#: Colours of arms in learning curves; a baseline is black.
_ARM_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
#: How far a panel of learning curves reaches down from the best Dice, in distances from the median.
_DOWN = 4.0


# --- forest plot ---------------------------------------------------------------------------------------------------


def draw_forest(report: Report) -> Figure:
    """Draw a row of panels for each protocol, a panel for each test set: differences in mean Dice with intervals."""
    protocols = [protocol for protocol in report.protocols if _is_compared(protocol)]
    if not protocols:
        return _empty_figure("No arm can be compared with its baseline yet.")
    heights = [max(len(_compared(protocol, test)) for test in protocol.tests) + 2.0 for protocol in protocols]
    columns = max(len(protocol.tests) for protocol in protocols)
    longest = max(len(arm.arm) for protocol in protocols for test in protocol.tests for arm in test.arms)
    figure = new_figure(longest * _CHARACTER + 4.8 * columns, 0.34 * sum(heights) + 0.6)
    grid = figure.subplots(len(protocols), columns, squeeze=False, sharex="row", height_ratios=heights)
    for axes, protocol in zip(grid, protocols, strict=True):
        for axis, test in zip(axes, protocol.tests, strict=True):
            _draw_differences(axis, protocol, test, named=axis is axes[0])
    figure.suptitle("Difference in mean Dice from the baseline, 95 % interval (blue: better, red: worse)", fontsize=11)
    return figure


def _is_compared(protocol: ProtocolResult) -> bool:
    return any(arm.differences["dice"] is not None for test in protocol.tests for arm in test.arms)


def _compared(protocol: ProtocolResult, test: TestResult) -> list[ArmResult]:
    return [arm for arm in test.arms if arm.arm != protocol.baseline]


def _draw_differences(axis: Axes, protocol: ProtocolResult, test: TestResult, named: bool) -> None:
    """Draw a line for each arm, the first on top, with the numbers at the right; ``named``: their names at the left."""
    arms, numbers = _compared(protocol, test), []
    for place, arm in enumerate(arms):
        difference = arm.differences["dice"]
        numbers.append("not compared" if difference is None else signed(difference, 4))
        if difference is not None:
            colour = _COLOURS[arm.verdict]
            axis.plot([difference.low, difference.high], [place, place], color=colour, lw=2)
            axis.plot(difference.mean, place, "s", color=colour, ms=6)
    axis.axvline(0, color="black", lw=0.8)
    axis.plot([-_LEAST_WIDTH, _LEAST_WIDTH], [0, 0], alpha=0)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set_yticks(range(len(arms)), [arm.arm for arm in arms] if named else [""] * len(arms), parse_math=False)
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(arms)), numbers, fontsize=9)
    right.spines["right"].set_visible(False)
    for side in (axis, right):
        side.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)
    axis.margins(x=0.08)
    axis.spines[["top", "left", "right"]].set_visible(False)
    title = f"{protocol.protocol}: {test.test}, {plural(test.cases, 'case')}"
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)


# --- learning curves -----------------------------------------------------------------------------------------------


def draw_curves(plan: Plan, rows: Sequence[Row]) -> Figure:
    """Draw a panel for each protocol: Dice on the validation cases over updates, a colour for each arm.

    Line and band are mean and range over the seeds as long as all are in training; beyond, each seed has a thin line.
    """
    protocols = {
        name: protocol for name, protocol in plan.protocols.items() if any(row.protocol == name for row in rows)
    }
    if not protocols:
        return _empty_figure("No run is done yet.")
    colours = _arm_colours(plan, rows)
    columns = min(len(protocols), 2)
    panels = -(-len(protocols) // columns)
    names_in_row = max(int(6.0 * columns / (0.6 + _CHARACTER * max(map(len, colours)))), 1)
    figure = new_figure(6.2 * columns, 3.6 * panels + 0.2 * (len(colours) / names_in_row + 1))
    axes = figure.subplots(panels, columns, squeeze=False).ravel()
    for axis in axes[len(protocols) :]:
        axis.set_axis_off()
    for axis, (name, protocol) in zip(axes, protocols.items(), strict=False):
        for arm in reversed(protocol.arms):  # the first on top
            _draw_arm(axis, arm_rows(rows, name, arm), colours.get(arm, "black"))
        _fit_dice(axis, [dice for row in rows if row.protocol == name for _, dice in row.curve])
        axis.set_title(name, fontsize=10, parse_math=False)
        axis.set(xlabel="updates", ylabel="Dice, validation cases")
        axis.grid(alpha=0.3)
    handles = [axes[0].plot([], [], color=colour, label=" " + arm)[0] for arm, colour in colours.items()]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=names_in_row, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _arm_colours(plan: Plan, rows: Sequence[Row]) -> dict[str, str]:
    """Return the colour of each arm that has a row."""
    baselines = {protocol.baseline for protocol in plan.protocols.values()}
    others = [arm for arm in plan.arms if arm not in baselines]
    colours = {arm: _ARM_COLOURS[n % len(_ARM_COLOURS)] for n, arm in enumerate(others)}
    found = {row.arm for row in rows}
    return {arm: colours.get(arm, "black") for arm in plan.arms if arm in found}


def _draw_arm(axis: Axes, rows: Sequence[Row], colour: str) -> None:
    curves = [dict(row.curve) for row in rows]
    common = sorted(set(curves[0]).intersection(*curves[1:])) if curves else []
    if common:
        table = np.array([[curve[step] for step in common] for curve in curves])
        axis.plot(common, table.mean(axis=0), color=colour, lw=1.8, marker="o", ms=2.5)
        axis.fill_between(common, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.12, lw=0)
    for curve in curves:
        rest = [step for step in sorted(curve) if not common or step >= common[-1]]
        axis.plot(rest, [curve[step] for step in rest], color=colour, lw=0.6)


def _fit_dice(axis: Axes, values: Sequence[float]) -> None:
    """Limit the axis, so that low values at the start do not squeeze the differences at the end."""
    if values:
        best = max(values)
        low = max(min(values), best - _DOWN * (best - float(np.median(values))))
        margin = 0.05 * (best - low) + 1e-3
        axis.set_ylim(low - margin, best + margin)


def _empty_figure(text: str) -> Figure:
    figure = new_figure(7, 1)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure
