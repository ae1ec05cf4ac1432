"""Build a torch module from an architecture's name and arguments. torch and MONAI are imported inside functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from .architectures import (
    ARCHITECTURES,
    FINE_STRIDE,
    IN_CHANNELS,
    LATENT_STRIDE,
    OUT_CHANNELS,
    DenoiserArguments,
    DynUNetArguments,
    FineDecoderArguments,
    JointAutoencoderArguments,
    Norm,
    SegResNetArguments,
    Shape,
    SwinUNETRArguments,
    UNetArguments,
    check_arguments,
)

if TYPE_CHECKING:
    import torch


def _norm(norm: Norm) -> tuple[str, dict[str, Any]]:
    """Return MONAI's argument for a normalisation with a learned scale and shift."""
    return norm, {"affine": True}


def _unet(arguments: UNetArguments, out_channels: int) -> torch.nn.Module:
    from .unet import UNet

    return UNet(arguments, IN_CHANNELS, out_channels)


def _dynunet(arguments: DynUNetArguments, out_channels: int) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    return DynUNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=out_channels, kernel_size=[3] * len(arguments.strides),
        strides=arguments.strides, upsample_kernel_size=arguments.strides[1:], filters=arguments.filters,
        norm_name=_norm(arguments.norm), res_block=arguments.res_block,
    )  # fmt: skip


def _segresnet(arguments: SegResNetArguments, out_channels: int) -> torch.nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=out_channels, init_filters=arguments.init_filters,
        blocks_down=arguments.blocks_down, blocks_up=arguments.blocks_up,
    )  # fmt: skip


def _swinunetr(arguments: SwinUNETRArguments, out_channels: int) -> torch.nn.Module:
    import torch
    from monai.networks.nets import SwinUNETR

    device = torch.get_default_device()
    with torch.device("cpu"):  # MONAI reads numbers from tensors, which the meta device cannot
        network = SwinUNETR(
            in_channels=IN_CHANNELS, out_channels=out_channels, feature_size=arguments.feature_size,
            depths=arguments.depths, num_heads=arguments.num_heads, window_size=arguments.window, use_v2=True,
            use_checkpoint=arguments.checkpointed,
        )  # fmt: skip
    return network.to(device)


def _joint_autoencoder(arguments: JointAutoencoderArguments) -> torch.nn.Module:
    from .joint_autoencoder import JointAutoencoder

    return JointAutoencoder(arguments)


def _denoiser(arguments: DenoiserArguments) -> torch.nn.Module:
    from .denoiser import Denoiser

    return Denoiser(arguments)


def _fine_decoder(arguments: FineDecoderArguments) -> torch.nn.Module:
    from .fine_decoder import FineDecoder

    return FineDecoder(arguments)


def _segments(module: torch.nn.Module, patch: Shape) -> bool:
    """Return whether the network maps a patch to logits of the same size.

    Computing on the meta device loads torch's compiler, which takes longer than labelling a small scan.
    """
    import torch

    from .unet import UNet

    if isinstance(module, UNet):
        return module.takes(patch)
    return module(torch.empty(1, IN_CHANNELS, *patch)).shape == (1, OUT_CHANNELS, *patch)


def _encodes_and_decodes(module: Any, patch: Shape) -> bool:
    """Return whether the network encodes a pair to latents of a quarter of each side, and decodes these to its size."""
    import torch

    mu, sigma = module.encode(torch.empty(1, 1, *patch), torch.empty(1, *patch, dtype=torch.uint8))
    latent = (1, module.latent_channels, *(side // LATENT_STRIDE for side in patch))
    if not mu.shape == sigma.shape == latent or any(side % LATENT_STRIDE for side in patch):
        return False
    image, scores = module.decode(mu)
    return image.shape == (1, 1, *patch) and scores.shape == (1, OUT_CHANNELS, *patch)


def _denoises(module: Any, patch: Shape) -> bool:
    """Return whether the network maps latents of a quarter of the patch's sides to outputs of the same shape."""
    import torch

    if any(side % LATENT_STRIDE for side in patch):
        return False
    latent = torch.empty(1, module.latent_channels, *(side // LATENT_STRIDE for side in patch))
    if module.prior is not None and module.prior.mean.shape != latent.shape[1:]:
        return False
    choices = torch.zeros(1, len(module.choices), dtype=torch.int64)
    return module(latent, torch.empty(1), choices, torch.empty(1, len(module.numbers))).shape == latent.shape


def _decodes(module: Any, patch: Shape) -> bool:
    """Return whether the network decodes latents of an eighth of the patch's sides to its size."""
    import torch

    if any(side % FINE_STRIDE for side in patch):
        return False
    sides = [side // FINE_STRIDE for side in patch]
    image, scores = module(
        torch.empty(1, module.latent_channels, *sides), torch.empty(1, module.noise_channels, *sides)
    )
    return image.shape == (1, 1, *patch) and scores.shape == (1, OUT_CHANNELS, *patch)


_SEGMENTERS: dict[str, Callable[[Any, int], torch.nn.Module]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "swinunetr": _swinunetr,
}
_BUILDERS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "joint_autoencoder": _joint_autoencoder,
    "diffusion_unet": _denoiser,
    "fine_decoder": _fine_decoder,
}
_FITS: dict[str, Callable[[Any, Shape], bool]] = {
    "segmentation": _segments,
    "autoencoder": _encodes_and_decodes,
    "denoising": _denoises,
    "decoding": _decodes,
}


def build_network(architecture: str, arguments: Mapping[str, JsonValue]) -> torch.nn.Module:
    """Return a freshly initialised network in training mode.

    A network for segmentation maps (N, 1, I, J, K) to logits (N, 9, I, J, K). Raises :class:`PackageError` for an
    unknown architecture or arguments out of bounds.
    """
    checked = check_arguments(architecture, arguments)
    if architecture in _SEGMENTERS:
        return _SEGMENTERS[architecture](checked, OUT_CHANNELS)
    return _BUILDERS[architecture](checked)


def build_reconstructor(architecture: str, arguments: Mapping[str, JsonValue]) -> torch.nn.Module:
    """Return a segmentation network with a single channel out: an image (N, 1, I, J, K) in 0..1 in place of logits.

    It is pre-trained by masked image modelling. Raises :class:`PackageError` as :func:`build_network` does.
    """
    checked = check_arguments(architecture, arguments)
    return _SEGMENTERS[architecture](checked, 1)


def fits(architecture: str, module: torch.nn.Module, patch: Shape) -> bool:
    """Return whether ``module``, on the meta device, can do its architecture's task on a ``patch`` of voxels.

    Other errors of torch than a wrong shape of the result pass through: ``RuntimeError`` and ``ValueError``.
    """
    return _FITS[ARCHITECTURES[architecture].task](module, patch)
