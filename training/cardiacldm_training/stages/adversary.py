"""An adversary for networks that make pairs: it learns to tell made pairs from true ones, they learn to pass.

Network and adversary are one module with one loss and one optimiser (:class:`Contest`), so that the training loop,
its checkpoints and its resume need to know nothing of it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from monai.networks.nets import PatchDiscriminator
from torch.func import functional_call

from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.joint_autoencoder import palette_coded

#: Limits of soft tissue in an image of 0..1: -200 and 500 HU where that stands for -1000 to 1000 HU. The adversary sees
#: the image in a window of this too, since the contrast of tissues is small within the whole range.
SOFT_TISSUE = (0.4, 0.75)
#: Image in two windows, and the three colours of the labels.
_CHANNELS = 2 + 3
#: Convolutions that halve the resolution: a score of the adversary looks at 70 voxels along each axis.
_LAYERS = 3
#: An adversary that tells nothing apart would otherwise have all the say.
_MOST_SCALE = 100.0


class Contest(torch.nn.Module):
    """A network that makes pairs, and its adversary. Only ``maker`` goes into a package."""

    def __init__(self, maker: torch.nn.Module, channels: int) -> None:
        super().__init__()
        self.maker = maker
        # The last layer's scores are compared with 1 and 0 (least squares), so they stay as they are.
        self.adversary = PatchDiscriminator(
            spatial_dims=3, channels=channels, in_channels=_CHANNELS, num_layers_d=_LAYERS, norm="INSTANCE"
        )

    def forward(
        self, inputs: tuple[torch.Tensor, ...], true: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return image and logits of the maker's patches, and the three losses of :meth:`judge`.

        ``inputs`` of the maker's ``patch``. ``true`` (N, 5, I, J, K): :func:`view` of the true pairs. ``mask``
        (N, 1, I, J, K) bool: where the patches count; elsewhere the adversary sees the true pair twice.
        """
        image, logits = cast("Any", self.maker).patch(*inputs)
        made = torch.where(mask, view(image, sharp_colours(logits)), true)
        return (image, logits, *self.judge(made, true))

    def judge(self, made: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the maker's losses (N,), the differences of features of both (N,), and the adversary's loss.

        The first two teach the maker alone, the last teaches the adversary alone, so that their sum may be
        differentiated at once.
        """
        fixed = {name: parameter.detach() for name, parameter in self.adversary.named_parameters()}
        *features, scores = functional_call(self.adversary, (fixed, dict(self.adversary.named_buffers())), (made,))
        *true_features, true_scores = self.adversary(true)
        made_scores = self.adversary(made.detach())[-1]
        maker_loss = (scores.float() - 1).square().flatten(1).mean(1)
        differences = torch.stack([
            (own.float() - other.detach().float()).abs().flatten(1).mean(1)
            for own, other in zip(features, true_features, strict=True)
        ]).mean(0)  # fmt: skip
        adversary_loss = (true_scores.float() - 1).square().mean() + made_scores.float().square().mean()
        return maker_loss, differences, adversary_loss


def balance(loss: torch.Tensor, passing: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Return the loss of passing, so scaled that its gradient at the ``image`` is as long as that of ``loss``.

    Otherwise its weight would have to change with the adversary's skill (Esser et al. 2021, "Taming Transformers",
    equation 7, at the last layer). Unscaled where one of them has no gradient there.
    """
    if not (image.requires_grad and passing.requires_grad):
        return passing
    lengths = [torch.autograd.grad(each, image, retain_graph=True)[0].float().norm() for each in (loss, passing)]
    scale = torch.where((lengths[0] > 0) & (lengths[1] > 0), lengths[0] / lengths[1].clamp(min=1e-12), 1.0)
    return scale.clamp(max=_MOST_SCALE).detach() * passing


def view(image: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Return image (N, 1, ...) in 0..1 and colours of labels (N, 3, ...) as the adversary sees them (N, 5, ...)."""
    low, high = SOFT_TISSUE
    narrow = ((image - low) / (high - low)).clamp(-0.05, 1.05)
    return torch.cat([2 * image.clamp(-0.05, 1.05) - 1, 2 * narrow - 1, 2 * colours - 1], dim=1)


def sharp_colours(logits: torch.Tensor) -> torch.Tensor:
    """Return the colours (N, 3, ...) of the most probable labels, with the gradient of the probabilities' mixture.

    Mixed colours would give made labels away.
    """
    palette = logits.new_tensor([anatomy.PALETTE[value] for value in range(anatomy.NUM_CLASSES)])
    mixed = torch.einsum("nc...,cd->nd...", logits.softmax(dim=1), palette)
    return palette_coded(logits.argmax(dim=1)) + mixed - mixed.detach()
