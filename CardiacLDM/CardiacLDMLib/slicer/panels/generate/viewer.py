"""Shows the pairs of the scene: in the table, side by side in the views, and with surfaces on request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import slicer

from ...pairs import SyntheticPair, synthetic_pairs
from ..process import Sliced
from . import views
from .table import PairTable


class PairViewer:
    """The lower part of Generate.ui. ``ui``: the form's children."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._table = PairTable(ui.pairs, self._show)
        self._surfaces: Sliced | None = None
        self._left, self._layout = False, views.layout_number()
        self._shown: SyntheticPair | None = None
        ui.surfaces.connect("toggled(bool)", self._show_surfaces)

    @property
    def pairs(self) -> list[SyntheticPair]:
        """The pairs in the table, oldest first."""
        return self._table.pairs

    def fill(self, with_pairs: bool = True) -> None:
        """Show the synthetic pairs of the scene in the table, or none."""
        self._table.fill(synthetic_pairs(slicer.mrmlScene) if with_pairs else [])
        if self._shown not in self._table.pairs:
            self._shown = None  # a removed pair leaves the memory
        self._ui.pairsBox.visible = bool(self._table.pairs)

    def arrive(self, pair: SyntheticPair, first: bool) -> Iterator[None]:
        """Show a new pair in steps, with pauses for the window. The first one takes the layout."""
        self.stop()
        self.fill()
        self._table.select_last()
        self._shown = pair
        for _step in self._steps(pair, first):
            yield
            if self._shown is not pair:  # the user has chosen another meanwhile
                return

    def expect(self) -> None:
        """Let the next first pair take the layout: the user waits for it. A layout chosen until then stays."""
        self._left, self._layout = False, views.layout_number()

    def leave(self) -> None:
        """Give the user's layout back: another panel or module is looked at. A pair that arrives does not take it."""
        self._left = True
        views.give_layout_back()

    def stop(self) -> None:
        """Make no further surface."""
        if self._surfaces is not None:
            self._surfaces.stop()
            self._surfaces = None

    @property
    def _in_3d(self) -> bool:
        return bool(self._ui.surfaces.checked)

    def _steps(self, pair: SyntheticPair, first: bool) -> Iterator[None]:
        yield
        if first and not self._left and self._layout == views.layout_number():
            yield from views.show_side_by_side_in_steps(self._in_3d)
        yield from views.show_pair_in_steps(pair)
        if self._in_3d:
            yield from views.show_in_3d_in_steps(pair)

    def _show(self, pair: SyntheticPair) -> None:
        self.stop()
        self._shown = pair
        views.show_side_by_side(self._in_3d)
        views.show_pair(pair)
        if self._in_3d:
            self._surfaces = Sliced(views.show_in_3d_in_steps(pair), self._surfaces_end)

    def _surfaces_end(self, error: Exception | None) -> None:
        self._surfaces = None
        if error is not None:
            raise error

    def _show_surfaces(self, on: bool) -> None:
        """Show the chosen pair in 3D too, or take the surfaces and their view away again."""
        if on and self._table.chosen is not None:
            self._show(self._table.chosen)
        elif not on:
            self.stop()
            views.hide_in_3d()
