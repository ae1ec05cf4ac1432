"""Install the Python packages that Slicer lacks, after the user has agreed.

torch is installed by the PyTorch extension, which chooses the build for the computer; the rest by slicer.packaging.
Both run pip. ``PIP_CONSTRAINT`` keeps numpy and SimpleITK, on which Slicer is built, at their versions.
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
#: Packages of Slicer itself, which pip must not replace.
SLICERS_OWN = ["numpy", "SimpleITK"]
DETAIL_LINES = 200


class Declined(Exception):  # noqa: N818 - not an error: the user said no
    """The user declined to install."""


def ensure_dependencies() -> bool:
    """Install the missing packages if the user agrees, and return whether all are installed.

    Errors are shown here. Call it on the main thread only: pip on another thread crashes Slicer.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("ensure_dependencies is for the main thread")
    missing_packages = dependencies.missing()
    if not missing_packages:
        return True
    obstacle = _obstacle(missing_packages)
    if obstacle:
        _show(obstacle, "")
        return False
    if not slicer.util.confirmOkCancelDisplay(dependencies.announcement(missing_packages), windowTitle=_title()):
        return False
    return _install(missing_packages)


def _title() -> str:
    return _("CardiacLDM - Install Python packages")


def _obstacle(missing_packages: list[Any]) -> str:
    """Return what the user must do before packages can be installed; empty if nothing."""
    if not _can_import("slicer.packaging"):
        return _("CardiacLDM needs Slicer 5.12 or newer: this version cannot install Python packages for modules.")
    if dependencies.TORCH in missing_packages and not _can_import("PyTorchUtils"):
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


def _install(missing_packages: list[Any]) -> bool:
    recorder = OutputRecorder()
    try:
        with recorder:
            if dependencies.TORCH in missing_packages:
                with pinned(SLICERS_OWN):
                    _install_torch()
            if missing_packages != [dependencies.TORCH]:
                with pinned([*SLICERS_OWN, dependencies.TORCH.name]):
                    _install_rest()
    except Declined:
        return False
    except Exception as error:  # pip, the extension and Slicer raise many types
        _show(
            dependencies.reason(f"{recorder.text}\n{error}"),
            f"{recorder.text}\n{type(error).__name__}: {error}".strip(),
        )
        return False
    left = dependencies.missing()
    if left:
        names = ", ".join(requirement.name for requirement in left)
        _show(_("After installing, {names} still cannot be found: restart Slicer.").format(names=names), recorder.text)
    return not left


def _install_torch() -> None:
    import PyTorchUtils

    versions = str(dependencies.TORCH.specifier)
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=versions)
    if torch is None:
        raise Declined


def _install_rest() -> None:
    import slicer.packaging

    requirements = slicer.packaging.load_requirements(str(dependencies.requirements_file()))
    try:
        slicer.packaging.pip_ensure(requirements, requester=REQUESTER)
    except RuntimeError as error:  # Slicer's sign that the user declined
        raise Declined from error


def _show(sentence: str, details: str) -> None:
    """Show one sentence, how to install without internet, and the end of pip's output."""
    way_out = _("What worked before still works. How to install without internet: {url}").format(url=HELP_URL)
    if details:
        slicer.util.errorDisplay(f"{sentence}\n\n{way_out}", windowTitle=_title(), detailedText=details)
    else:
        slicer.util.errorDisplay(f"{sentence}\n\n{way_out}", windowTitle=_title())


@contextlib.contextmanager
def pinned(names: list[str]) -> Iterator[None]:
    """Within the block, pip does not replace the named packages by other versions."""
    before = os.environ.get("PIP_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="cardiacldm-pip-") as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(dependencies.pins(names)) + "\n", encoding="utf-8")
        # As a URL: pip splits the variable at spaces.
        os.environ["PIP_CONSTRAINT"] = f"{before or ''} {file.as_uri()}".strip()
        try:
            yield
        finally:
            if before is None:
                del os.environ["PIP_CONSTRAINT"]
            else:
                os.environ["PIP_CONSTRAINT"] = before


class OutputRecorder:
    """Within its block, records the end of what is printed and passes it on."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque(maxlen=20 * DETAIL_LINES)
        self._restore: Callable[[], None] = lambda: None

    @property
    def text(self) -> str:
        """The last lines that were printed."""
        return "\n".join("".join(self._pieces).splitlines()[-DETAIL_LINES:])

    def __enter__(self) -> OutputRecorder:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(out, self._pieces), _Tee(err, self._pieces)

        def restore() -> None:
            sys.stdout, sys.stderr = out, err

        self._restore = restore
        return self

    def __exit__(self, *_exception: object) -> None:
        self._restore()


class _Tee:
    """A stream that records what is written to it."""

    def __init__(self, stream: Any, pieces: deque[str]) -> None:
        self._stream, self._pieces = stream, pieces

    def write(self, text: str) -> int:
        self._pieces.append(text)
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
