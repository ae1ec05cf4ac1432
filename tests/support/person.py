"""A person at the module in the stand-in: what the tests of all panels have in common."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host, close_module, open_module, pump, start_host


@contextlib.contextmanager
def module_open(tmp_path_factory: pytest.TempPathFactory, **packages: Callable[[Path], object]) -> Iterator[Host]:
    """Open the module for the tests of a file. ``packages``: what writes each of the user's packages, by its name."""
    home = tmp_path_factory.mktemp("data")
    for name, write in packages.items():
        write(home / "cardiacldm" / "models" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home))
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("jobs")))  # nobody else's jobs
        host = start_host()
        host.reset()
        open_module()
        yield host
        close_module()
        host.check()


class Person:
    """The actions and observations that all tabs share. ``ui``: the form of the tab."""

    ui: Any

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def widget(self) -> Any:
        return self.host.modules["CardiacLDM"].widget

    @property
    def scene(self) -> Any:
        import slicer

        return slicer.mrmlScene

    def nodes(self, kind: str) -> list[Any]:
        import slicer

        return list(slicer.util.getNodesByClass(kind))

    def segmentations(self) -> list[Any]:
        return self.nodes("vtkMRMLSegmentationNode")

    def choose(self, combo: Any, value: str) -> None:
        combo.currentIndex = [combo.itemData(index) for index in range(combo.count)].index(value)

    def words(self) -> tuple[object, ...]:
        """Return what the tab says, for the message of a wait that was too long."""
        return (self.ui.progressLabel.text, self.ui.errorLabel.text)

    def wait(self, until: Callable[[], object], seconds: float = 60.0) -> None:
        assert pump(seconds, until=until), self.words()
        self.host.check()
