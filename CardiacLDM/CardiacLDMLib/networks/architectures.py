"""The closed list of network architectures that a package may name, with the bounds of their arguments.

A package names an architecture and its arguments. It contains no code, class path or expression. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from .. import anatomy
from ..errors import PackageError
from ..text import first_problem

#: Channels of a segmentation network: the CT in, a logit for the background and for each structure out.
IN_CHANNELS, OUT_CHANNELS = 1, anatomy.NUM_CLASSES

Width = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=1, le=256)]
Stride = Annotated[int, Field(ge=1, le=2)]
Norm = Literal["instance", "batch"]
Blocks = Annotated[int, Field(ge=1, le=8)]
Heads = Annotated[int, Field(ge=1, le=64)]


class _Arguments(BaseModel):
    """Arguments of an architecture: immutable, without unknown entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetArguments(_Arguments):
    """MONAI ``UNet``: ``channels`` per level, ``strides`` between levels, residual units per level.

    ``light_top`` leaves out the residual unit at full resolution: it has few channels but takes half of a CPU's time.
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=7)]
    strides: Annotated[tuple[Stride, ...], Field(min_length=1, max_length=6)]
    num_res_units: Annotated[int, Field(ge=0, le=4)] = 0
    light_top: bool = False
    norm: Norm = "instance"

    @model_validator(mode="after")
    def _levels_agree(self) -> UNetArguments:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError("strides must be one fewer than channels")
        return self


class DynUNetArguments(_Arguments):
    """MONAI ``DynUNet`` (the network of nnU-Net): ``filters`` and ``strides`` per level, 3x3x3 kernels."""

    filters: Annotated[tuple[Width, ...], Field(min_length=3, max_length=7)]
    strides: Annotated[tuple[Stride, ...], Field(min_length=3, max_length=7)]
    res_block: bool = False
    norm: Norm = "instance"

    @model_validator(mode="after")
    def _levels_agree(self) -> DynUNetArguments:
        if len(self.strides) != len(self.filters):
            raise ValueError("strides must be as many as filters")
        if self.strides[0] != 1:
            raise ValueError("the first stride must be 1, since the output has the resolution of the first level")
        return self


class SegResNetArguments(_Arguments):
    """MONAI ``SegResNet``: ``init_filters`` at full resolution, doubled at each level; residual blocks per level."""

    init_filters: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 16
    blocks_down: Annotated[tuple[Blocks, ...], Field(min_length=2, max_length=6)]
    blocks_up: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=5)]

    @model_validator(mode="after")
    def _levels_agree(self) -> SegResNetArguments:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError("blocks_up must be one fewer than blocks_down")
        return self


class SwinUNETRArguments(_Arguments):
    """MONAI ``SwinUNETR``: a shifted-window transformer with four stages and a convolutional decoder.

    ``feature_size``: channels of the first stage, doubled at each stage. ``window``: side of the attention's window in
    tokens. The sides of a patch must be multiples of 32 voxels.
    """

    feature_size: Annotated[int, Field(ge=12, le=48, multiple_of=12)] = 24
    depths: tuple[Blocks, Blocks, Blocks, Blocks] = (2, 2, 2, 2)
    num_heads: tuple[Heads, Heads, Heads, Heads] = (3, 6, 12, 24)
    window: Annotated[int, Field(ge=2, le=16)] = 7
    checkpointed: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> SwinUNETRArguments:
        if any(self.feature_size * 2**level % heads for level, heads in enumerate(self.num_heads)):
            raise ValueError("the width of every stage must be a multiple of its heads")
        return self


class JointAutoencoderArguments(_Arguments):
    """:class:`joint_autoencoder.JointAutoencoder`, whose latents have a quarter of the image's side along each axis.

    ``channels`` of its three levels, or of two levels after stems that halve each side. ``stem_channels`` of the two
    stems, whose outputs are summed or concatenated (``fusion``). ``labels_out``: labels are decoded as logits or as
    palette colours. ``linear_maps``: linear maps of blocks run beside encoder and decoder. ``checkpointed`` saves
    memory in training: activations are computed again for the gradient.
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=3)]
    num_res_blocks: Annotated[int, Field(ge=1, le=4)] = 1
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    norm_num_groups: Annotated[int, Field(ge=1, le=64)]
    fusion: Literal["sum", "concatenation"] = "sum"
    labels_out: Literal["logits", "palette"] = "logits"
    stem_channels: Width
    linear_maps: bool = True
    checkpointed: bool = False

    @model_validator(mode="after")
    def _groups_divide(self) -> JointAutoencoderArguments:
        if any(width % self.norm_num_groups for width in self.channels):
            raise ValueError("every width must be a multiple of norm_num_groups")
        return self


class DenoiserArguments(_Arguments):
    """:class:`denoiser.Denoiser`: MONAI's ``DiffusionModelUNet`` with its conditions.

    ``channels`` and ``attention_levels``: one entry per level. The lowest level always has attention in its middle.
    ``num_head_channels``: channels of an attention head. ``choices``: the number of values of each condition that is a
    choice. ``numbers``: the number of conditions that are numbers. ``prior_modes``, for rectified flow only: the number
    of modes of a normal distribution over latents of ``latent_shape``; it is part of the weights, and the network
    learns the difference from it.
    """

    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    prior_modes: Annotated[int, Field(ge=0, le=256)] | None = None
    latent_shape: tuple[Side, Side, Side] | None = None
    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=5)]
    num_res_blocks: Annotated[int, Field(ge=1, le=4)] = 1
    attention_levels: Annotated[tuple[bool, ...], Field(min_length=2, max_length=5)]
    num_head_channels: Width
    norm_num_groups: Annotated[int, Field(ge=1, le=64)]
    choices: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=32)]
    numbers: Annotated[int, Field(ge=0, le=32)]
    context_dim: Width

    @model_validator(mode="after")
    def _levels_agree(self) -> DenoiserArguments:
        if len(self.attention_levels) != len(self.channels):
            raise ValueError("attention_levels must be as many as channels")
        if any(width % self.norm_num_groups for width in self.channels):
            raise ValueError("every width must be a multiple of norm_num_groups")
        if any(width % self.num_head_channels for width in self._with_attention()):
            raise ValueError("every width with attention must be a multiple of num_head_channels")
        if (self.prior_modes is None) != (self.latent_shape is None):
            raise ValueError("prior_modes and latent_shape belong together")
        return self

    def _with_attention(self) -> list[int]:
        """Return the widths of the levels with attention."""
        levels = zip(self.channels, self.attention_levels, strict=True)
        return [width for width, attention in levels if attention] + [self.channels[-1]]


class FineDecoderArguments(_Arguments):
    """:class:`fine_decoder.FineDecoder`, whose output has voxels of half the autoencoder's size.

    ``channels`` at 8, 4, 2 and 1 voxels of the output; ``blocks``: residual blocks at each but the last, which has one.
    """

    latent_channels: Annotated[int, Field(ge=1, le=64)]
    channels: tuple[Width, Width, Width, Width]
    blocks: Blocks = 2


#: Number of voxels along i, j, k.
Shape = tuple[int, int, int]
#: Side of a latent voxel in voxels of the image, and in those of a fine decoder, which are half as large.
LATENT_STRIDE = 4
FINE_STRIDE = 2 * LATENT_STRIDE


@dataclass(frozen=True)
class Architecture:
    """The record of an architecture's arguments, and its task in a package."""

    arguments: type[_Arguments]
    task: Literal["segmentation", "autoencoder", "denoising", "decoding"] = "segmentation"


#: All architectures by name. A new one needs no new schema version: older programs refuse its name.
ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(UNetArguments),
    "dynunet": Architecture(DynUNetArguments),
    "segresnet": Architecture(SegResNetArguments),
    "swinunetr": Architecture(SwinUNETRArguments),
    "joint_autoencoder": Architecture(JointAutoencoderArguments, "autoencoder"),
    "diffusion_unet": Architecture(DenoiserArguments, "denoising"),
    "fine_decoder": Architecture(FineDecoderArguments, "decoding"),
}


def check_arguments(architecture: str, arguments: Mapping[str, JsonValue]) -> _Arguments:
    """Return the validated arguments. Raises :class:`PackageError` for an unknown architecture or invalid arguments."""
    entry = ARCHITECTURES.get(architecture)
    if entry is None:
        raise PackageError(
            f"the architecture {architecture!r} is unknown to this version (known: {', '.join(ARCHITECTURES)})"
        )
    try:
        # Through JSON: its strict mode accepts lists for tuples, but no number written as text.
        return entry.arguments.model_validate_json(json.dumps(arguments), strict=True)
    except ValidationError as error:
        raise PackageError(first_problem(error)) from error
