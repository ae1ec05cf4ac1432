"""An adversary for networks that make pairs: it learns to tell made pairs from true ones, they learn to pass.

Network and adversary are one module with one loss and one optimiser (:class:`Contest`), so that the training loop,
its checkpoints and its resume need to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.networks.nets import PatchDiscriminator
from torch.func import functional_call

from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.joint_autoencoder import palette_coded, squared_distances

from .config import LEAST_ADVERSARY_SIDE, AdversaryConfig
from .run_folder import Weights

#: Limits of soft tissue in an image of 0..1: -200 and 500 HU where that stands for -1000 to 1000 HU. The adversary sees
#: the image in a window of this too, since the contrast of tissues is small within the whole range.
SOFT_TISSUE = (0.4, 0.75)
#: Image in two windows, and the three colours of the labels.
VIEW_CHANNELS = 2 + 3
#: Convolutions that halve the resolution: a score of the adversary looks at 70 voxels along each axis.
_LAYERS = 3
#: Greatest shift of what is judged, in voxels: one less than the side of a latent of the fine decoder.
_MOST_SHIFT = 7
#: An adversary that tells nothing apart would otherwise have all the say.
_MOST_SCALE = 100.0
#: Steps over which the weight of passing grows.
_GROWTH = 300
#: The tensors of the maker begin so in a checkpoint.
_MAKER = "maker."

#: Make a pair: image (N, 1, I, J, K) in 0..1, labels (see :func:`sharp_colours`), and what else a stage's loss needs.
Make = Callable[..., tuple[torch.Tensor, ...]]


class Contest(torch.nn.Module):
    """A network that makes pairs, and its adversary. Only ``maker`` goes into a package.

    ``make``: the maker's method that is trained, called as ``make(maker, ...)``. All that it returns becomes float32
    before it is judged, so that :func:`balance` finds the image that was judged, whatever the precision.
    """

    def __init__(self, maker: torch.nn.Module, make: Make, channels: int) -> None:
        super().__init__()
        self.maker, self.make = maker, make
        # The last layer's scores are compared with 1 and 0 (least squares), so they stay as they are.
        self.adversary = PatchDiscriminator(
            spatial_dims=3, channels=channels, in_channels=VIEW_CHANNELS, num_layers_d=_LAYERS, norm="INSTANCE"
        )

    def forward(
        self, inputs: tuple[torch.Tensor, ...], true: torch.Tensor, shift: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Return all that the maker makes, and the three losses of :meth:`judge`.

        ``true`` (N, 5, I, J, K): :func:`view` of the true pairs. ``shift`` (3,): of what is judged, see
        :func:`shifted`. ``mask`` (N, 1, I, J, K) bool: where the made pairs count; elsewhere the adversary sees the
        true pair twice. None: everywhere.
        """
        made = tuple(tensor.float() for tensor in self.make(self.maker, *inputs))
        seen = view(made[0], sharp_colours(made[1]))
        seen = seen if mask is None else torch.where(mask, seen, true)
        return (*made, *self.judge(shifted(seen, shift), shifted(true, shift)))

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


def contest_in(network: torch.nn.Module) -> Contest | None:
    """Return the contest inside the averaging and parallel modules of the training loop; None if there is none."""
    inner: Any = network
    while not isinstance(inner, Contest):
        if not hasattr(inner, "module"):
            return None
        inner = inner.module
    return inner


def maker_weights(weights: Weights) -> Weights:
    """Return the maker's weights among those of a run's checkpoint; all of them, if it had no adversary."""
    own = {name.removeprefix(_MAKER): value for name, value in weights.items() if name.startswith(_MAKER)}
    return own or weights


def share(step: float, config: AdversaryConfig) -> np.float32:
    """Return how much passing counts at a step, 0..1: nothing until ``adversary_from``, and then by degrees all."""
    return np.float32(np.clip((step - config.adversary_from) / _GROWTH, 0, 1))


def random_shift(rng: np.random.Generator) -> np.ndarray:
    """Return a random shift (3,) for :func:`shifted`, in voxels along each axis."""
    return rng.integers(_MOST_SHIFT + 1, size=3)


def shifted(patches: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the part of patches (N, C, I, J, K) that begins at ``shift`` (3,). Small patches are left whole.

    The adversary halves the resolution at every second voxel, and makers double it: judged at one place alone, made
    patches get a pattern of that period.
    """
    sides = patches.shape[2:]
    if min(sides) < LEAST_ADVERSARY_SIDE + _MOST_SHIFT:
        return patches
    box = (slice(low, low + side - _MOST_SHIFT) for low, side in zip(shift.tolist(), sides, strict=True))
    return patches[(slice(None), slice(None), *box)]


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


def sharp_colours(labels: torch.Tensor) -> torch.Tensor:
    """Return the colours (N, 3, ...) of the most probable labels, with the gradient of mixed ones.

    ``labels``: logits (N, 9, ...), whose mixture has the weights of their probabilities, or mixed colours (N, 3, ...).
    Mixed colours would give made labels away.
    """
    if labels.shape[1] == anatomy.NUM_CLASSES:
        palette = labels.new_tensor([anatomy.PALETTE[value] for value in range(anatomy.NUM_CLASSES)])
        mixed = torch.einsum("nc...,cd->nd...", labels.softmax(dim=1), palette)
        names = labels.argmax(dim=1)
    else:
        mixed, names = labels, squared_distances(labels).argmin(dim=1)
    return palette_coded(names) + mixed - mixed.detach()
