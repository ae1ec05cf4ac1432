"""Facts about a generator package, and the time and space that generating pairs takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from slicer.i18n import tr as _

from ....errors import UserError
from ....files import RESOURCES
from ..parts import duration

#: As in ``packages.store``, which cannot be imported before the libraries are installed.
DEFAULT_GENERATOR = "virtual-pairs-v2"
#: Above these limits the user is asked first. The number of pairs counts while their time is unknown.
LONG_SECONDS, LARGE_BYTES, MANY_PAIRS = 600.0, 2e9, 20
#: Bytes in the scene, and at most on the disk: int16 HU and a label.
BYTES_PER_VOXEL = 3


@dataclass(frozen=True)
class Facts:
    """Facts about a package: default number of steps, grid of its pairs, and its conditions.

    ``problem``: a sentence if the package cannot be used; the rest is empty then.
    """

    steps: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: float = 0.0
    choices: Mapping[str, list[str]] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    problem: str = ""

    @property
    def pair_bytes(self) -> int:
        """Memory of a pair in the scene, and its largest size on the disk."""
        return BYTES_PER_VOXEL * math.prod(self.shape) if self.shape else 0


def facts_of(package: str) -> Facts:
    """Read the manifest of a package, by name or folder. Takes milliseconds: the weights are not read."""
    if not package:
        return Facts(problem=_("No generator package is installed: import one under Models & device."))
    try:
        from ....packages.store import locate_package, open_package, require_kind
    except ImportError:  # the libraries are installed before the first pair is generated
        return Facts()
    try:
        opened = open_package(locate_package(package), check_hashes=False)
        require_kind(opened, "generator")
    except UserError as error:
        return Facts(problem=str(error))
    manifest = opened.manifest
    network, spec = manifest.pair_network, manifest.generator
    assert spec is not None  # the manifest of a generator has it
    return Facts(spec.sampling.steps, network.patch, network.spacing_mm, spec.user_choices, spec.user_numbers)


def installed_generators() -> list[str]:
    """Return the names of the usable generator packages, the one that ships first."""
    try:
        from ....packages.store import installed_packages
    except ImportError:
        shipped = RESOURCES / "Models" / DEFAULT_GENERATOR
        return [DEFAULT_GENERATOR] if shipped.is_dir() else []
    return sorted(installed_packages("generator"), key=lambda name: name != DEFAULT_GENERATOR)


def number_of_pairs(count: int) -> str:
    """Return "1 pair" or "3 pairs"."""
    return _("1 pair") if count == 1 else _("{n} pairs").format(n=count)


@dataclass(frozen=True)
class Effort:
    """Seconds (None while unknown) that ``count`` pairs take, and their bytes in memory and at most on disk."""

    count: int
    seconds: float | None
    size_bytes: int

    @property
    def is_large(self) -> bool:
        """Whether the user should be asked first."""
        if self.seconds is None and self.count > MANY_PAIRS:
            return True
        return (self.seconds or 0.0) > LONG_SECONDS or self.size_bytes > LARGE_BYTES

    def in_words(self) -> str:
        """Return ``3 pairs: about 12 s, 2 MB of memory, and up to as much on disk if saved``."""
        from ....text import size_text

        pairs = number_of_pairs(self.count)
        time = _("time unknown until the first is finished") if self.seconds is None else duration(self.seconds)
        text = _("{pairs}: {time}, {size} of memory, and up to as much on disk if saved")
        return text.format(pairs=pairs, time=time, size=size_text(self.size_bytes))
