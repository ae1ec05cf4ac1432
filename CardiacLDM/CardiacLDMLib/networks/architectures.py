"""From a manifest to torch modules: the closed list of architectures and the strict exchange of their weights.

A package names an architecture and gives bounded arguments; no code, class path or expression comes from it. A module
is first built on torch's meta device, which takes no memory, and the tensors of the file are compared with it by name,
shape and type before one is read. torch and MONAI are imported where they are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from .. import anatomy
from ..errors import PackageError
from ..text import first_problem

if TYPE_CHECKING:
    pass


#: One CT channel in, one logit per structure and for the background out.
IN_CHANNELS, OUT_CHANNELS = 1, anatomy.NUM_CLASSES

Width = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=1, le=256)]
Stride = Annotated[int, Field(ge=1, le=2)]
Norm = Literal["instance", "batch"]
Blocks = Annotated[int, Field(ge=1, le=8)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetArguments(_Arguments):
    """MONAI ``UNet``: ``channels`` per level, ``strides`` between levels, residual units per level.

    ``light_top`` leaves out the residual unit at full resolution, which has few channels but half of the cost on a CPU.
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
    """MONAI ``DynUNet`` (nnU-Net's shape): ``filters`` and ``strides`` per level, 3x3x3 kernels."""

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
    """MONAI ``SegResNet``: residual blocks per level going down and up, widths doubling from ``init_filters``."""

    init_filters: Annotated[int, Field(ge=8, le=64, multiple_of=8)]
    blocks_down: Annotated[tuple[Blocks, ...], Field(min_length=2, max_length=6)]
    blocks_up: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=5)]

    @model_validator(mode="after")
    def _levels_agree(self) -> SegResNetArguments:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError("blocks_up must be one fewer than blocks_down")
        return self


class JointAutoencoderArguments(_Arguments):
    """:class:`joint_autoencoder.JointAutoencoder`: ``channels`` of its three levels, or of two behind stems that halve
    each side, so that latents have a quarter of it; ``stem_channels`` of the two stems, which are summed or
    concatenated; labels out as logits or palette.

    ``checkpointed`` saves memory in training: activations are computed again for the gradient.
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=3)]
    num_res_blocks: Annotated[int, Field(ge=1, le=4)] = 1
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    norm_num_groups: Annotated[int, Field(ge=1, le=64)]
    fusion: Literal["sum", "concatenation"] = "sum"
    labels_out: Literal["logits", "palette"] = "logits"
    stem_channels: Width
    checkpointed: bool = False

    @model_validator(mode="after")
    def _groups_divide(self) -> JointAutoencoderArguments:
        if any(width % self.norm_num_groups for width in self.channels):
            raise ValueError("every width must be a multiple of norm_num_groups")
        return self


class DenoiserArguments(_Arguments):
    """:class:`denoiser.Denoiser`: ``channels`` per level of MONAI's ``DiffusionModelUNet``, the levels with attention,
    ``choices`` (the number of values of each) and ``numbers`` (how many) that it can be conditioned on.

    The lowest level has attention in its middle anyhow, in heads of ``num_head_channels``. ``prior_modes``, for
    rectified flow alone: the network knows a normal distribution with so many modes over latents of the
    ``latent_shape``, and learns what that does not tell.
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
        levels = zip(self.channels, self.attention_levels, strict=True)
        return [width for width, attention in levels if attention] + [self.channels[-1]]


Shape = tuple[int, int, int]
#: Side of a latent voxel in voxels of the grid.
LATENT_STRIDE = 4


@dataclass(frozen=True)
class Architecture:
    """The bounded arguments of an architecture, and the task that it can do."""

    arguments: type[_Arguments]
    task: Literal["segmentation", "autoencoder", "denoising"] = "segmentation"


#: All architectures that a package may name. A new entry needs no new schema version; older programs refuse its name.
ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(UNetArguments),
    "dynunet": Architecture(DynUNetArguments),
    "segresnet": Architecture(SegResNetArguments),
    "joint_autoencoder": Architecture(JointAutoencoderArguments, "autoencoder"),
    "diffusion_unet": Architecture(DenoiserArguments, "denoising"),
}


def check_arguments(architecture: str, arguments: Mapping[str, JsonValue]) -> _Arguments:
    """The arguments as their model; raises :class:`PackageError` for an unknown architecture or unsound arguments."""
    known = ARCHITECTURES.get(architecture)
    if known is None:
        raise PackageError(
            f"the architecture {architecture!r} is unknown to this version (known: {', '.join(ARCHITECTURES)})"
        )
    try:
        # Through JSON, for its strict mode takes lists for tuples and still no number written as text.
        return known.arguments.model_validate_json(json.dumps(arguments), strict=True)
    except ValidationError as error:
        raise PackageError(first_problem(error)) from error
