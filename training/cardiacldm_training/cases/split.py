"""The split of cases into training and held-out cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import TrainingError
from . import store

Cases = Sequence[store.PreparedCase]


def split(cases: Cases, part: float) -> tuple[list[store.PreparedCase], list[store.PreparedCase]]:
    """Return training cases and held-out cases, about ``part`` of all and at least one.

    The side of a case depends on its name alone, so it does not change when other cases are added or removed.
    Raises :class:`TrainingError` for fewer than two cases.
    """
    if len(cases) < 2:
        raise TrainingError("Training needs at least two usable cases: one to train on, one to validate on.")
    rank = {case.name: int(hashlib.sha256(case.name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF for case in cases}
    first = min(rank.values())
    held_out = [case for case in cases if rank[case.name] < part or rank[case.name] == first]
    train = [case for case in cases if case not in held_out]
    if not train:
        held_out, train = held_out[:1], held_out[1:]
    return train, held_out
