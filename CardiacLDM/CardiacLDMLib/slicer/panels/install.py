"""Installing what a Slicer lacks: said first, asked for, done by Slicer's own means, and explained when it fails.

torch comes through the PyTorch extension, which picks the build for the computer; the rest through slicer.packaging.
Both run pip; while they do, ``PIP_CONSTRAINT`` holds numpy and SimpleITK, on which Slicer is built, at their versions.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

import slicer

from .. import dependencies

REQUESTER = "CardiacLDM"
HELP_URL = "https://github.com/CardiacLDM/SlicerCardiacLDM/blob/main/docs/user/install.md"
#: What pip must leave alone: Slicer's own, and then the torch that fits the computer.
SLICERS_OWN = ["numpy", "SimpleITK"]
DETAIL_LINES = 200


class Declined(Exception):  # noqa: N818 - not an error: the user said no
    """The user does not want to install."""


def ensure_dependencies() -> bool:
    """Install what is missing, after saying what and how much and asking; whether a job can run now.

    Whatever goes wrong is shown here, with a way out. For the main thread only: pip from another crashes Slicer.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("ensure_dependencies is for the main thread")
    lacking = dependencies.missing()
    if not lacking:
        return True
    obstacle = _obstacle(lacking)
    if obstacle:
        _show(obstacle, "")
        return False
    if not slicer.util.confirmOkCancelDisplay(dependencies.announcement(lacking), windowTitle=_title()):
        return False
    return _install(lacking)


def _title() -> str:
    return _("CardiacLDM - Install Python packages")


def _obstacle(lacking: list[Any]) -> str:
    """What has to be done by hand before anything can be installed; empty if nothing."""
    if not _can_import("slicer.packaging"):
        return _("CardiacLDM needs Slicer 5.12 or newer: this version cannot install Python packages for modules.")
    if dependencies.TORCH in lacking and not _can_import("PyTorchUtils"):
        return _(
            "CardiacLDM needs the PyTorch extension, which is not installed: open the Extensions Manager, install "
            "PyTorch, restart Slicer and try again."
        )
    return ""


def _can_import(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _install(lacking: list[Any]) -> bool:
    heard = Heard()
    try:
        with heard:
            if dependencies.TORCH in lacking:
                with held(SLICERS_OWN):
                    _install_torch()
            if lacking != [dependencies.TORCH]:
                with held([*SLICERS_OWN, dependencies.TORCH.name]):
                    _install_rest()
    except Declined:
        return False
    except Exception as error:  # whatever pip, the extension or Slicer raise
        _show(dependencies.reason(f"{heard.text}\n{error}"), f"{heard.text}\n{type(error).__name__}: {error}".strip())
        return False
    left = dependencies.missing()
    if left:
        names = ", ".join(requirement.name for requirement in left)
        _show(_("After installing, {names} still cannot be found: restart Slicer.").format(names=names), heard.text)
    return not left


def _install_torch() -> None:
    import PyTorchUtils

    wanted = str(dependencies.TORCH.specifier)
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=wanted)
    if torch is None:
        raise Declined


def _install_rest() -> None:
    import slicer.packaging

    requirements = slicer.packaging.load_requirements(str(dependencies.requirements_file()))
    try:
        slicer.packaging.pip_ensure(requirements, requester=REQUESTER)
    except RuntimeError as error:  # so Slicer says that the user declined
        raise Declined from error


def _show(sentence: str, details: str) -> None:
    """One sentence, what to do without a working connection, and the end of what was printed."""
    way_out = _("Nothing that worked before was changed. How to install without internet: {url}").format(url=HELP_URL)
    if details:
        slicer.util.errorDisplay(f"{sentence}\n\n{way_out}", windowTitle=_title(), detailedText=details)
    else:
        slicer.util.errorDisplay(f"{sentence}\n\n{way_out}", windowTitle=_title())


@contextlib.contextmanager
def held(names: list[str]) -> Iterator[None]:
    """While it lasts, no pip that is started replaces the named packages by other versions."""
    before = os.environ.get("PIP_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="cardiacldm-pip-") as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(dependencies.pins(names)) + "\n", encoding="utf-8")
        # As an address: pip takes a space in the variable for the end of a path.
        os.environ["PIP_CONSTRAINT"] = f"{before or ''} {file.as_uri()}".strip()
        try:
            yield
        finally:
            if before is None:
                del os.environ["PIP_CONSTRAINT"]
            else:
                os.environ["PIP_CONSTRAINT"] = before


class Heard:
    """Listens to what is printed while it is entered, and passes it on; keeps the end."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque(maxlen=20 * DETAIL_LINES)
        self._restore: Callable[[], None] = lambda: None

    @property
    def text(self) -> str:
        """The last lines that were printed."""
        return "\n".join("".join(self._pieces).splitlines()[-DETAIL_LINES:])

    def __enter__(self) -> Heard:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(out, self._pieces), _Tee(err, self._pieces)

        def restore() -> None:
            sys.stdout, sys.stderr = out, err

        self._restore = restore
        return self

    def __exit__(self, *_raised: object) -> None:
        self._restore()


class _Tee:
    """A stream that is listened to."""

    def __init__(self, stream: Any, pieces: deque[str]) -> None:
        self._stream, self._pieces = stream, pieces

    def write(self, text: str) -> int:
        self._pieces.append(text)
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
