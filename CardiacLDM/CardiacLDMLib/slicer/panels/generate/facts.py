"""What a generator package says of itself, and what drawing pairs with it will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from slicer.i18n import tr as _

from ....files import RESOURCES
from ..parts import duration

#: As in ``package``, which cannot be imported before the libraries are installed.
DEFAULT_GENERATOR = "virtual-pairs-v1"
#: More than this, or more pairs of which nobody knows how long one takes, is asked about first.
LONG_SECONDS, LARGE_BYTES, MANY_PAIRS = 600.0, 2e9, 20
#: In the scene, and at most on disk: int16 HU and a label.
BYTES_PER_VOXEL = 3


@dataclass(frozen=True)
class Facts:
    """Of a package: its usual number of steps, its grid, the conditions that it knows.

    ``problem``: a sentence if it cannot be used; then the rest is empty.
    """

    steps: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: float = 0.0
    choices: Mapping[str, list[str]] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    problem: str = ""

    @property
    def pair_bytes(self) -> int:
        """Memory of a pair in the scene, and at most its space on disk."""
        return BYTES_PER_VOXEL * math.prod(self.shape) if self.shape else 0


def facts_of(package: str) -> Facts:
    """Read the manifest of a package, by name or folder: some milliseconds, the weights are not looked at."""
    if not package:
        return Facts(problem=_("No generator package is installed: import one under Models & device."))
    try:
        from ....errors import PackageError
        from ....packages.store import locate_package, open_package, require_kind
    except ImportError:  # they are installed before the first pair is drawn
        return Facts()
    try:
        opened = open_package(locate_package(package), check_hashes=False)
        require_kind(opened, "generator")
    except PackageError as error:
        return Facts(problem=str(error))
    manifest = opened.manifest
    network, spec = manifest.networks["autoencoder"], manifest.generator
    assert spec is not None  # every generator has one
    return Facts(spec.sampling.steps, network.patch, network.spacing_mm, spec.choices, spec.numbers)


def installed_generators() -> list[str]:
    """Names of the generator packages that can be used, the one that ships first."""
    try:
        from ....packages.store import known_packages
    except ImportError:
        shipped = RESOURCES / "Models" / DEFAULT_GENERATOR
        return [DEFAULT_GENERATOR] if shipped.is_dir() else []
    return sorted(known_packages("generator"), key=lambda name: name != DEFAULT_GENERATOR)


@dataclass(frozen=True)
class Effort:
    """What ``count`` pairs take: seconds, None if nobody knows yet, and bytes of memory, and at most of disk."""

    count: int
    seconds: float | None
    size_bytes: int

    @property
    def is_large(self) -> bool:
        """Whether a person should agree first."""
        if self.seconds is None and self.count > MANY_PAIRS:
            return True
        return (self.seconds or 0.0) > LONG_SECONDS or self.size_bytes > LARGE_BYTES

    def in_words(self) -> str:
        """``3 pairs: about 12 s, 2 MB of memory, and as much on disk if they are saved``"""
        from ....text import size_text

        pairs = _("1 pair") if self.count == 1 else _("{n} pairs").format(n=self.count)
        time = _("time not known before the first") if self.seconds is None else duration(self.seconds)
        text = _("{pairs}: {time}, {size} of memory, and up to as much on disk if saved")
        return text.format(pairs=pairs, time=time, size=size_text(self.size_bytes))
