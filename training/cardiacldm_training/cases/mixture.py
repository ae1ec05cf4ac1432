"""Training cases of several origins, such as real and generated ones, mixed in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .pairs import missing_structures
from .split import Cases
from .store import PreparedCase


@dataclass(frozen=True)
class Group:
    """Cases of one origin; ``share`` is relative to the shares of the other groups."""

    name: str
    cases: Cases
    share: float = 1.0


@dataclass(frozen=True)
class Mixture:
    """Groups of training cases. The origin of example n depends on the seed and n alone.

    Raises :class:`ConfigError` for no groups, empty groups, or shares that are not positive.
    """

    groups: Sequence[Group]

    def __post_init__(self) -> None:
        empty = [group.name for group in self.groups if not len(group.cases)]
        if not self.groups or empty:
            raise ConfigError(f"There are no cases to train on{': ' + ', '.join(empty) if empty else ''}.")
        if any(not group.share > 0 for group in self.groups):
            raise ConfigError("Every share of a mixture must be above 0.")

    def check_anatomy(self) -> None:
        """Raise :class:`ConfigError` if a group lacks a structure that the first one has: it would be unlearnt.

        A structure that a group leaves unknown is not lacking.
        """
        lacking = [missing_structures(group.cases) for group in self.groups]
        for group, names in zip(self.groups, lacking, strict=True):
            known = set(names) - {name for case in group.cases for name in case.unknown}
            if absent := [name for name in names if name in known - set(lacking[0])]:
                raise ConfigError(
                    f"The {group.name} have no {', '.join(absent)}, which the {self.groups[0].name} have: mix others."
                )

    def __len__(self) -> int:
        return sum(len(group.cases) for group in self.groups)

    def origin(self, seed: int, stream: int, n: int) -> int:
        """Return the number of the group from which example ``n`` of the random ``stream`` is taken."""
        if len(self.groups) == 1:
            return 0
        rng = np.random.default_rng(np.random.SeedSequence([seed, stream, n, 1]))
        shares = np.cumsum([group.share for group in self.groups])
        return int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))

    def draw(self, rng: np.random.Generator, seed: int, stream: int, n: int) -> PreparedCase:
        """Return a random case for example ``n``: its origin by ``seed``, ``stream`` and ``n``, the case by ``rng``."""
        cases = self.groups[self.origin(seed, stream, n)].cases
        return cases[int(rng.integers(len(cases)))]
