"""Masks of masked image modelling: which voxels of a patch the network does not see.

Two kinds: the boxes of Hu et al. 2024, and the blocks of masked autoencoders (He et al. 2022, 3D as in nnssl).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from CardiacLDMLib.packages.fields import Record

from ..errors import ConfigError

Side = Annotated[int, Field(ge=1, le=256)]
#: Masks over which the hidden share is averaged: its standard error is then below a hundredth of the share.
_SHARE_MASKS = 64


class BoxMask(Record):
    """The paper's mask: with ``probability``, ``count`` boxes at random places hide their voxels; they may overlap.

    Each side of each box is drawn between ``sides``. The paper's "8x8 to 16x16" leaves open whether boxes run through
    all slices: ``columns`` do. The loss is taken over the whole patch.
    """

    kind: Literal["paper"] = "paper"
    count: Annotated[int, Field(ge=1, le=10_000)] = 25
    sides: tuple[Side, Side] = (8, 16)
    probability: Annotated[float, Field(ge=0.01, le=1)] = 0.8
    columns: bool = False

    @model_validator(mode="after")
    def _check(self) -> BoxMask:
        if self.sides[0] > self.sides[1]:
            raise ValueError("sides: the smaller one comes first")
        return self

    @property
    def hidden_only(self) -> bool:
        """Whether the loss is taken over hidden voxels alone."""
        return False

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Return a mask (I, J, K) bool of ``shape``: True where a voxel is hidden."""
        mask = np.zeros(shape, dtype=bool)
        if rng.random() >= self.probability:
            return mask
        for _ in range(self.count):
            side = np.minimum(rng.integers(self.sides[0], self.sides[1] + 1, 3), shape)
            start = rng.integers(0, np.array(shape) - side + 1)
            stop = start + side
            if self.columns:
                start[2], stop[2] = 0, shape[2]
            mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
        return mask


class BlockMask(Record):
    """The mask of masked autoencoders: a ``share`` of all blocks of ``side`` voxels is hidden.

    Blocks form a grid; those at the far edges may be smaller. The loss is taken over hidden voxels alone.
    """

    kind: Literal["mae"] = "mae"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.75
    side: Side = 16

    @property
    def hidden_only(self) -> bool:
        """Whether the loss is taken over hidden voxels alone."""
        return True

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Return a mask (I, J, K) bool of ``shape``: True where a voxel is hidden."""
        blocks = [-(-n // self.side) for n in shape]
        total = int(np.prod(blocks))
        hidden = np.zeros(total, dtype=bool)
        hidden[rng.permutation(total)[: min(max(round(self.share * total), 1), max(total - 1, 1))]] = True
        mask = hidden.reshape(blocks)
        for axis in range(3):
            mask = np.repeat(mask, self.side, axis=axis)
        return mask[tuple(slice(0, n) for n in shape)]


Mask = Annotated[BoxMask | BlockMask, Field(discriminator="kind")]
#: The masks that ``--mask`` offers.
MASKS: dict[str, BoxMask | BlockMask] = {"paper": BoxMask(), "mae": BlockMask()}


def parse_mask(name: str, *, columns: bool = False) -> BoxMask | BlockMask:
    """Return the mask of a name, the paper's perhaps with columns. Raises :class:`ConfigError`."""
    mask = MASKS.get(name)
    if mask is None:
        raise ConfigError(f"There is no mask {name!r}: choose {' or '.join(MASKS)}.")
    if columns and not isinstance(mask, BoxMask):
        raise ConfigError("Only the paper's boxes can be columns: leave --columns out.")
    return mask.model_copy(update={"columns": True}) if columns else mask


def hidden_share(mask: BoxMask | BlockMask, shape: tuple[int, ...]) -> float:
    """Return the mean share (0 to 1) of a patch of ``shape`` that a mask hides when it hides anything."""
    always = mask.model_copy(update={"probability": 1.0}) if isinstance(mask, BoxMask) else mask
    rng = np.random.default_rng(0)
    return float(np.mean([always.draw(rng, shape).mean() for _ in range(_SHARE_MASKS)]))
