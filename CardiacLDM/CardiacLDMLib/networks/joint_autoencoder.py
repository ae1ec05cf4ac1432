"""The joint autoencoder: encode an image and its labels to one latent, and decode both (Hu et al. 2025).

:mod:`build` imports this module only for a package that needs it, since it imports torch and MONAI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.blocks import SubpixelUpsample
from monai.networks.nets import AutoencoderKL
from monai.networks.utils import pixelshuffle, pixelunshuffle

from .. import anatomy
from .architectures import LATENT_STRIDE

if TYPE_CHECKING:
    from .architectures import JointAutoencoderArguments

#: Subtracted from colours, so that background is 0, like the padding of convolutions.
_GREY = 0.5
#: Logarithm of the latent's variance before training: a standard deviation of 0.14, where that of the means is 1.
_FIRST_LOG_VARIANCE = -4.0
#: Factor of the decoder's layers in the image, beside the linear map: training steps of the size that labels need are
#: too large for the image.
_FINE = 0.1
#: Before training, logits are this factor times the negative squared distances of colours.
_CONFIDENCE = 8.0
#: Least standard deviation of a latent. Without noise in training, the decoder turns small sampling errors into blocks.
_LEAST_SIGMA = 0.1


class JointAutoencoder(AutoencoderKL):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's ``AutoencoderKL`` without attention, with two input stems and two outputs.

    Image and palette-coded labels each pass a convolution with its own activation (without activations, two summed
    stems would equal one convolution over both). Their sum or concatenation enters the encoder. The decoder's first
    channel is the image, the others are nine logits or the three colours of the palette.

    With two levels instead of three, the stems halve each side and the decoder's last convolution computes eight voxels
    at once: on a CPU, convolutions of few channels at full resolution take most of the time.

    Unless ``linear_maps`` is off, linear maps of blocks of 4 x 4 x 4 voxels run parallel to encoder and decoder
    (residual autoencoding, Chen et al. 2025, "Deep Compression Autoencoder for Efficient High-Resolution Diffusion
    Models"). Training initialises them with principal components (:meth:`initialise_linear`). They reproduce the coarse
    image from the first step on, which layers after group normalisation would need a thousand steps to learn.
    """

    def __init__(self, arguments: JointAutoencoderArguments) -> None:
        in_channels = (2 if arguments.fusion == "concatenation" else 1) * arguments.stem_channels
        out_channels = 1 + (anatomy.NUM_CLASSES if arguments.labels_out == "logits" else 3)
        stem_stride = LATENT_STRIDE // 2 ** (len(arguments.channels) - 1)
        levels = len(arguments.channels)
        super().__init__(
            spatial_dims=3, in_channels=in_channels, channels=arguments.channels,
            out_channels=out_channels * stem_stride**3, num_res_blocks=[arguments.num_res_blocks] * levels,
            attention_levels=[False] * levels, latent_channels=arguments.latent_channels,
            norm_num_groups=arguments.norm_num_groups, with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False, use_checkpoint=arguments.checkpointed,
        )  # fmt: skip
        self.image_stem, self.label_stem = (_stem(inputs, arguments.stem_channels, stem_stride) for inputs in (1, 3))
        self.linear_maps = arguments.linear_maps
        if self.linear_maps:
            self.block_encoder = torch.nn.Conv3d(1 + 3, arguments.latent_channels, LATENT_STRIDE, stride=LATENT_STRIDE)
            self.block_decoder = SubpixelUpsample(
                3, arguments.latent_channels, out_channels, LATENT_STRIDE, apply_pad_pool=False
            )
        self.stem_stride = stem_stride
        self.fusion, self.labels_out = arguments.fusion, arguments.labels_out
        # With a larger variance, noise would hide the latent and little would be learnt.
        torch.nn.init.zeros_(self.quant_conv_log_sigma.conv.weight)
        torch.nn.init.constant_(self.quant_conv_log_sigma.conv.bias, _FIRST_LOG_VARIANCE)

    def encode(self, image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the latent, each (N, C, I/4, J/4, K/4).

        ``image`` (N, 1, I, J, K) in 0..1; ``labels`` (N, I, J, K) or (N, 1, I, J, K), values of :mod:`anatomy`.
        """
        colours = palette_coded(labels).to(image.dtype) - _GREY
        stems = self.image_stem(image), self.label_stem(colours)
        joined = torch.cat(stems, dim=1) if self.fusion == "concatenation" else stems[0] + stems[1]
        mu, sigma = super().encode(joined)
        sigma = (sigma.square() + _LEAST_SIGMA**2).sqrt()
        if self.linear_maps:
            mu = mu + self.block_encoder(torch.cat([image, colours], dim=1))
        return mu, sigma

    def blocks(self, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the input of the linear maps (N, B, I/4, J/4, K/4): values of the image, then of the colours."""
        colours = palette_coded(labels).to(image.dtype) - _GREY
        return cast("torch.Tensor", pixelunshuffle(torch.cat([image, colours], dim=1), 3, LATENT_STRIDE))

    @torch.no_grad()
    def initialise_linear(self, mean: torch.Tensor, analysis: torch.Tensor, synthesis: torch.Tensor) -> None:
        """Set the linear maps, and set the last layers to 0, so that only the maps act at first.

        A block ``x`` (B,) of :meth:`blocks` is encoded as ``analysis (x - mean)``, and a latent ``z`` (C,) is decoded
        as ``mean + synthesis z``, with ``analysis`` (C, B) and ``synthesis`` (B, C). Logits start from the distances of
        colours.
        """
        weight, bias = self.block_encoder.parameters()
        weight.copy_(analysis.reshape(weight.shape))
        bias.copy_(-analysis @ mean)
        maps = self.block_decoder.conv_block
        for layer in (maps, self.quant_conv_mu, self.decoder.blocks[-1]):
            for parameter in layer.parameters():
                parameter.zero_()
        if self.labels_out == "logits":
            mean, synthesis = _as_logits(mean, constant=True), _as_logits(synthesis, constant=False)
        maps.weight[:, :, 1, 1, 1] = synthesis
        maps.bias.copy_(mean)

    def freeze_linear(self) -> None:
        """Exclude the linear maps, if there are any, from training."""
        if self.linear_maps:
            for layer in (self.block_decoder, self.block_encoder):
                layer.requires_grad_(False)

    def decode_raw(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image (N, 1, I, J, K), not clipped, and the labels: logits (N, 9, ...) or colours (N, 3, ...)."""
        out = pixelshuffle(super().decode(z), 3, self.stem_stride)
        image, labels = out.split([1, out.shape[1] - 1], dim=1)
        if self.linear_maps:
            coarse, coarse_labels = self.block_decoder(z).split([1, labels.shape[1]], dim=1)
            image, labels = coarse + _FINE * image, labels + coarse_labels
        return image, labels + _GREY if self.labels_out == "palette" else labels

    def decode(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image (N, 1, I, J, K), about 0..1, and label scores (N, 9, I, J, K): the largest is the label."""
        image, raw = self.decode_raw(z)
        return image, self.scores(raw)

    def scores(self, raw: torch.Tensor) -> torch.Tensor:
        """Return scores (N, 9, ...) from the labels of :meth:`decode_raw`: logits, or negative squared distances."""
        return -squared_distances(raw) if self.labels_out == "palette" else raw

    def forward(
        self, image: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return image, labels (see :meth:`decode_raw`), and mean and standard deviation of the latent.

        With ``noise`` (N, C, I/4, J/4, K/4), standard normal, a sampled latent is decoded, otherwise the mean.
        """
        mu, sigma = self.encode(image, labels)
        out, raw = self.decode_raw(mu if noise is None else mu + sigma * noise)
        return out, raw, mu, sigma


def _stem(inputs: int, outputs: int, stride: int) -> torch.nn.Module:
    convolution = torch.nn.Conv3d(inputs, outputs, kernel_size=2 + stride, stride=stride, padding=1)
    return torch.nn.Sequential(convolution, torch.nn.SiLU())


def palette_coded(labels: torch.Tensor) -> torch.Tensor:
    """Return labels (N, I, J, K) or (N, 1, I, J, K) as colours (N, 3, I, J, K) of ``anatomy.PALETTE`` in 0..1."""
    names = labels[:, 0] if labels.ndim == 5 else labels
    return torch.nn.functional.embedding(names.int(), _palette(labels.device)).movedim(-1, 1)


def squared_distances(colours: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (N, 9, ...) of colours (N, 3, ...) from the palette."""
    palette = _palette(colours.device).to(colours.dtype)
    return torch.stack([(colours - colour[:, None, None, None]).square().sum(1) for colour in palette], dim=1)


def _as_logits(blocks: torch.Tensor, constant: bool) -> torch.Tensor:
    """Return blocks (B, ...) of image and colours (three per voxel, 0 is grey) as blocks of image and nine logits.

    A logit is the negative squared distance from a colour of the palette, without the term that all nine share: a
    linear function of the voxel's colour plus a constant. ``constant``: add it, for blocks, but not for their
    differences.
    """
    image, colours = blocks[: LATENT_STRIDE**3], blocks[LATENT_STRIDE**3 :]
    palette = _palette(blocks.device) - _GREY
    logits = 2 * torch.tensordot(palette, colours.reshape(3, LATENT_STRIDE**3, *colours.shape[1:]), dims=1)
    if constant:
        logits = logits - palette.square().sum(1).view(-1, *[1] * colours.ndim)
    return torch.cat([image, _CONFIDENCE * logits.flatten(0, 1)])


def _palette(device: torch.device) -> torch.Tensor:
    """Return the palette (9, 3). It is no buffer, since it belongs to the program, not to a package's weights."""
    return torch.tensor([anatomy.PALETTE[value] for value in range(anatomy.NUM_CLASSES)], device=device)
