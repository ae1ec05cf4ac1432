"""The split of cases into training and held-out cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import TrainingError
from . import store

Cases = Sequence[store.PreparedCase]


def sides(prepared: store.Prepared, part: float) -> tuple[list[store.PreparedCase], list[store.PreparedCase]]:
    """Return training cases and held-out cases: those of a stored split, without one as :func:`split` does.

    Raises :class:`TrainingError` if one of the sides is empty.
    """
    if prepared.held_out is None:
        return split(prepared.cases, part)
    held_out = [case for case in prepared.cases if case.name in prepared.held_out]
    train = [case for case in prepared.cases if case.name not in prepared.held_out]
    if not held_out or not train:
        side = "to train on" if held_out else "to validate on"
        raise TrainingError(f"The split leaves no usable case {side}: choose another fold, or split again.")
    return train, held_out


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
