"""Which cases are learnt from and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import TrainingError
from . import store

Cases = Sequence[store.PreparedCase]


def split(cases: Cases, part: float) -> tuple[list[store.PreparedCase], list[store.PreparedCase]]:
    """Training and held-out cases. A case's side depends on its name alone, so it never changes as others come and go.

    At least one case is held out. Raises :class:`loop.TrainingError` for fewer than two cases.
    """
    if len(cases) < 2:
        raise TrainingError("Training needs at least two usable cases: one to learn from, one to validate on.")
    rank = {case.name: int(hashlib.sha256(case.name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF for case in cases}
    first = min(rank.values())
    held = [case for case in cases if rank[case.name] < part or rank[case.name] == first]
    train = [case for case in cases if case not in held]
    if not train:
        held, train = held[:1], held[1:]
    return train, held
