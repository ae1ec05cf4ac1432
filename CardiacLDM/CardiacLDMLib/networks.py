"""From a manifest to torch modules: the closed list of architectures and the strict exchange of their weights.

A package names an architecture and gives bounded arguments; no code, class path or expression comes from it. A module
is first built on torch's meta device, which takes no memory, and the tensors of the file are compared with it by name,
shape and type before one is read. torch and MONAI are imported where they are used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from . import anatomy
from .package import ModelPackage, NetworkSpec, PackageError, first_problem, shown

if TYPE_CHECKING:
    import torch

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


def _norm(norm: Norm) -> tuple[str, dict[str, Any]]:
    """As MONAI takes it; instance norm with a learned scale and shift, as batch norm always has."""
    return norm, {"affine": True}


def _unet(arguments: UNetArguments) -> torch.nn.Module:
    from monai.networks.blocks import Convolution
    from monai.networks.nets import UNet

    network = UNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS, channels=arguments.channels,
        strides=arguments.strides, num_res_units=arguments.num_res_units, norm=_norm(arguments.norm),
    )  # fmt: skip
    if arguments.light_top:
        width, below = arguments.channels[:2]
        joined = width + (width if len(arguments.channels) > 2 else below)  # the lowest level keeps its own width
        network.model[-1] = Convolution(
            3, joined, OUT_CHANNELS, strides=arguments.strides[0], is_transposed=True, conv_only=True
        )
    return network


def _dynunet(arguments: DynUNetArguments) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    return DynUNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS, kernel_size=[3] * len(arguments.strides),
        strides=arguments.strides, upsample_kernel_size=arguments.strides[1:], filters=arguments.filters,
        norm_name=_norm(arguments.norm), res_block=arguments.res_block,
    )  # fmt: skip


def _segresnet(arguments: SegResNetArguments) -> torch.nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS, init_filters=arguments.init_filters,
        blocks_down=arguments.blocks_down, blocks_up=arguments.blocks_up,
    )  # fmt: skip


def _joint_autoencoder(arguments: JointAutoencoderArguments) -> torch.nn.Module:
    from .joint_autoencoder import JointAutoencoder

    return JointAutoencoder(arguments)


def _denoiser(arguments: DenoiserArguments) -> torch.nn.Module:
    from .denoiser import Denoiser

    return Denoiser(arguments)


Shape = tuple[int, int, int]
#: Side of a latent voxel in voxels of the grid.
LATENT_STRIDE = 4


def _labels_patch(module: torch.nn.Module, patch: Shape) -> bool:
    """Whether a patch becomes logits of the same size."""
    import torch

    return module(torch.empty(1, IN_CHANNELS, *patch)).shape == (1, OUT_CHANNELS, *patch)


def _encodes_and_decodes(module: Any, patch: Shape) -> bool:
    """Whether a pair becomes a latent of a quarter of each side, and the latent a pair of the same size."""
    import torch

    mu, sigma = module.encode(torch.empty(1, 1, *patch), torch.empty(1, *patch, dtype=torch.uint8))
    latent = (1, module.latent_channels, *(side // LATENT_STRIDE for side in patch))
    if not mu.shape == sigma.shape == latent or any(side % LATENT_STRIDE for side in patch):
        return False
    image, scores = module.decode(mu)
    return image.shape == (1, 1, *patch) and scores.shape == (1, OUT_CHANNELS, *patch)


def _denoises(module: Any, patch: Shape) -> bool:
    """Whether latents of a quarter of the patch's sides keep their shape."""
    import torch

    if any(side % LATENT_STRIDE for side in patch):
        return False
    latent = torch.empty(1, module.latent_channels, *(side // LATENT_STRIDE for side in patch))
    if module.prior is not None and module.prior.mean.shape != latent.shape[1:]:
        return False
    choices = torch.zeros(1, len(module.choices), dtype=torch.int64)
    return module(latent, torch.empty(1), choices, torch.empty(1, len(module.numbers))).shape == latent.shape


@dataclass(frozen=True)
class Architecture:
    """The bounded arguments of an architecture, what builds it from them, and what it is for.

    ``fits`` runs a module on the meta device and tells whether it does its ``task`` on a patch of that many voxels.
    """

    arguments: type[_Arguments]
    build: Callable[[Any], torch.nn.Module]
    task: Literal["segmentation", "autoencoder", "denoising"] = "segmentation"
    fits: Callable[[torch.nn.Module, Shape], bool] = _labels_patch


#: All that a package may name. A new entry needs no new schema version; older programs refuse it by name.
ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(UNetArguments, _unet),
    "dynunet": Architecture(DynUNetArguments, _dynunet),
    "segresnet": Architecture(SegResNetArguments, _segresnet),
    "joint_autoencoder": Architecture(
        JointAutoencoderArguments, _joint_autoencoder, "autoencoder", _encodes_and_decodes
    ),
    "diffusion_unet": Architecture(DenoiserArguments, _denoiser, "denoising", _denoises),
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


def build_network(architecture: str, arguments: Mapping[str, JsonValue]) -> torch.nn.Module:
    """A freshly initialised network in training mode.

    Those for segmentation take (N, 1, I, J, K) to (N, 9, I, J, K) logits. Raises :class:`PackageError` for an unknown
    architecture or arguments out of bounds.
    """
    checked = check_arguments(architecture, arguments)
    return ARCHITECTURES[architecture].build(checked)


def load_networks(package: ModelPackage, device: str = "cpu") -> dict[str, torch.nn.Module]:
    """The package's networks by name: float32, on ``device``, in evaluation mode, without gradients.

    Raises :class:`PackageError` when a tensor is missing, left over, of another shape or type, or not finite.
    """
    networks = {}
    for name, spec in package.manifest.networks.items():
        try:
            networks[name] = _load(spec, package.folder / spec.weights).to(device)
        except PackageError as error:
            raise PackageError(f"{package.manifest.name} is refused: in its {name}, {error}.") from error
    return networks


def pack_weights(spec: NetworkSpec, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A trained module's ``state_dict()`` as it is stored: each tensor once, on the CPU, half precision.

    Raises :class:`PackageError` when the state does not fit ``spec`` or a value is not finite in half precision.
    """
    wanted, stored_as = _tensors(_on_meta(spec))
    _compare_names(set(state), set(stored_as))
    packed = {}
    for name, tensor in wanted.items():
        value = state[name].detach().cpu()
        _compare_shapes(name, tuple(value.shape), tuple(tensor.shape))
        packed[name] = (value.half() if value.is_floating_point() else value).contiguous().clone()
        _check_finite(name, packed[name])
    return packed


def _on_meta(spec: NetworkSpec) -> torch.nn.Module:
    """The network without memory behind its tensors, shown to do its task on a patch."""
    import torch

    fits = False
    with torch.device("meta"):
        module = build_network(spec.architecture, spec.arguments).eval()
        with contextlib.suppress(RuntimeError, ValueError):  # what torch raises where sizes do not meet
            fits = ARCHITECTURES[spec.architecture].fits(module, spec.patch)
    if not fits:
        raise PackageError(f"it cannot work on a patch of {' x '.join(map(str, spec.patch))} voxels")
    return module


def _tensors(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of ``module`` by name, each once, and for every name in its state the one it is stored under.

    DynUNet registers its blocks twice; what is one tensor in memory is one tensor in the file.
    """
    state = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    stored_as = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: state[name] for name in first.values()}, stored_as


def _load(spec: NetworkSpec, path: Path) -> torch.nn.Module:
    from safetensors import SafetensorError, safe_open

    module = _on_meta(spec)
    wanted, stored_as = _tensors(module)
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            _compare_layout(file, wanted)
            for name, like in wanted.items():
                # A copy of its own: the file would stay mapped into memory, and it may be replaced meanwhile.
                tensors[name] = file.get_tensor(name).to(like.dtype, copy=True)
                _check_finite(name, tensors[name])
    except (SafetensorError, OSError) as error:
        raise PackageError(f"{path.name} is damaged, cut short, or not a safetensors file") from error
    module.load_state_dict({name: tensors[first] for name, first in stored_as.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _compare_layout(file: Any, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the header of an open safetensors file with the module's tensors; no value is read."""
    _compare_names(set(file.keys()), set(wanted))
    for name, tensor in wanted.items():
        entry = file.get_slice(name)
        _compare_shapes(name, tuple(entry.get_shape()), tuple(tensor.shape))
        if entry.get_dtype() not in (("F16", "F32") if tensor.is_floating_point() else ("I64",)):
            raise PackageError(f"the tensor {name} holds values of the type {entry.get_dtype()}")


def _compare_names(found: set[str], wanted: set[str]) -> None:
    if wanted - found:
        raise PackageError(f"the tensor {min(wanted - found)} is missing")
    if found - wanted:
        raise PackageError(f"the tensor {shown(min(found - wanted))} is left over, the network has no such part")


def _compare_shapes(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise PackageError(f"the tensor {name} has the shape {list(found)}, the network needs {list(wanted)}")


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.isfinite().all():
        raise PackageError(f"the tensor {name} holds values that are not finite numbers")
