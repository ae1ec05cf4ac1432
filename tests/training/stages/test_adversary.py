"""The adversary: who learns from which loss, and what the adversary sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cardiacldm_training.stages.adversary import (
    Contest,
    balance,
    contest_in,
    maker_weights,
    random_shift,
    share,
    sharp_colours,
    shifted,
    view,
)
from cardiacldm_training.stages.config import AdversaryConfig
from CardiacLDMLib.networks.joint_autoencoder import palette_coded

SIDE = 24
UNMOVED = torch.zeros(3, dtype=torch.int64)


class Maker(torch.nn.Module):
    """A maker of pairs with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def patch(self, image: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weight * image, self.weight * logits


def contest() -> tuple[Contest, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    image, logits = torch.rand(2, 1, SIDE, SIDE, SIDE), torch.randn(2, 9, SIDE, SIDE, SIDE)
    true = view(torch.rand(2, 1, SIDE, SIDE, SIDE), palette_coded(torch.randint(0, 9, (2, SIDE, SIDE, SIDE))))
    return Contest(Maker(), Maker.patch, channels=4), (image, logits, true)


def gradients(module: Contest) -> tuple[bool, bool]:
    """Return whether the maker and whether the adversary have a gradient other than 0."""
    parts = (module.maker, module.adversary)
    found = (any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in parts)
    maker, adversary = found
    return maker, adversary


def test_each_loss_teaches_one_side() -> None:
    counted = torch.ones(2, 1, SIDE, SIDE, SIDE, dtype=torch.bool)
    for number, expected in ((2, (True, False)), (3, (True, False)), (4, (False, True))):
        module, (image, logits, true) = contest()
        module((image, logits), true, UNMOVED, counted)[number].sum().backward()
        assert gradients(module) == expected


def test_what_does_not_count_teaches_nobody_to_tell_them_apart() -> None:
    module, (image, logits, true) = contest()
    nothing = torch.zeros(2, 1, SIDE, SIDE, SIDE, dtype=torch.bool)
    outputs = module((image, logits), true, UNMOVED, nothing)
    assert float(outputs[3].detach().abs().max()) == 0  # both are the same pair


def test_without_a_mask_everything_counts() -> None:
    module, (image, logits, true) = contest()
    counted = torch.ones(2, 1, SIDE, SIDE, SIDE, dtype=torch.bool)
    for one, other in zip(
        module((image, logits), true, UNMOVED), module((image, logits), true, UNMOVED, counted), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_all_that_the_maker_makes_is_returned() -> None:
    module, (image, logits, true) = contest()
    module.make = lambda maker, *inputs: (*maker.patch(*inputs), maker.weight)
    assert float(module((image, logits), true, UNMOVED)[2].detach()) == 0.5


def test_passing_is_balanced_in_half_precision_too() -> None:
    """The image that is judged must be the one that is returned, not a copy of it."""
    module, (image, logits, true) = contest()
    made, _, passing, *_ = module((image.bfloat16(), logits.bfloat16()), true, UNMOVED)
    assert made.dtype == torch.float32
    loss = made.abs().mean()
    assert float(balance(loss, passing.mean(), made).detach()) != float(passing.mean().detach())


def test_the_maker_is_found_within_other_modules_and_among_weights() -> None:
    module, _ = contest()
    assert contest_in(torch.optim.swa_utils.AveragedModel(module)) is not None
    assert contest_in(module) is module
    assert contest_in(torch.optim.swa_utils.AveragedModel(Maker())) is None
    assert maker_weights(module.state_dict()) == {"weight": torch.tensor(0.5)}
    assert maker_weights(module.maker.state_dict()) == {"weight": torch.tensor(0.5)}


def test_passing_counts_by_degrees() -> None:
    settings = AdversaryConfig(steps=9, validate_every=9, patience=1, adversary_from=100)
    assert [float(share(step, settings)) for step in (0, 100, 250, 400, 9000)] == [0, 0, 0.5, 1, 1]


def test_made_labels_look_as_sharp_as_true_ones_and_still_teach() -> None:
    logits = torch.randn(1, 9, 4, 4, 4, requires_grad=True)
    colours = sharp_colours(logits)
    torch.testing.assert_close(colours, palette_coded(logits.argmax(1)))
    colours.square().sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.any())


def test_mixed_colours_look_as_sharp_as_true_ones_and_still_teach() -> None:
    names = torch.arange(9).view(1, 9, 1, 1)
    colours = (palette_coded(names) + 0.05).requires_grad_()
    seen = sharp_colours(colours)
    torch.testing.assert_close(seen, palette_coded(names))
    seen.square().sum().backward()
    assert colours.grad is not None
    assert bool(colours.grad.any())


def test_the_adversary_sees_soft_tissue_apart() -> None:
    hu = torch.tensor([-1000.0, -200.0, 500.0, 1000.0]).view(1, 1, 4, 1, 1)
    seen = view((hu + 1000) / 2000, torch.full((1, 3, 4, 1, 1), 0.5))
    torch.testing.assert_close(seen[0, 0].flatten(), torch.tensor([-1.0, -0.2, 0.5, 1.0]))
    torch.testing.assert_close(seen[0, 1].flatten(), torch.tensor([-1.1, -1.0, 1.0, 1.1]))


@pytest.mark.parametrize("skill", [1e-3, 1.0, 50.0])
def test_passing_pulls_as_hard_as_the_loss_beside_it(skill: float) -> None:
    image = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
    loss, passing = image.abs().mean(), skill * (image - 2).square().mean()
    own, scaled = (
        torch.autograd.grad(each, image, retain_graph=True)[0].norm() for each in (loss, balance(loss, passing, image))
    )
    limit = 100 * torch.autograd.grad(passing, image)[0].norm()  # of the scale
    torch.testing.assert_close(scaled, torch.minimum(own, limit))


def test_passing_that_does_not_count_yet_stays_nothing() -> None:
    image = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
    assert float(balance(image.mean(), 0.0 * image.square().mean(), image).detach()) == 0


def test_patches_are_judged_at_every_place_of_a_latent() -> None:
    """A pattern that repeats with the latents would otherwise always meet the same strides of the adversary."""
    rng = np.random.default_rng(0)
    shifts = torch.from_numpy(np.stack([random_shift(rng) for _ in range(200)]))
    assert [sorted(set(shifts[:, axis].tolist())) for axis in range(3)] == [list(range(8))] * 3
    patch = torch.arange(40.0).expand(1, 1, 40, 40, 40)
    for shift in shifts[:5]:
        part = shifted(patch, shift)
        assert part.shape == (1, 1, 33, 33, 33)
        assert part[0, 0, 0, 0, 0] == shift[2]
    small = torch.zeros(1, 1, 24, 40, 40)
    assert shifted(small, shifts[0]) is small
