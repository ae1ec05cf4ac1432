"""Dice loss and cross-entropy for labels that leave something unknown, such as those without the appendage.

Each label stands for the classes that fit it (:func:`~cardiacldm_training.cases.unknown.fitting_classes`), and their
weighted probabilities are summed. So background is right for whatever the data set does not label. A structure that is
not labelled as a whole has no part in the Dice of its case. Without anything unknown this is MONAI's ``DiceCELoss``
with Dice over the whole batch and without background.
"""

from __future__ import annotations

import torch

#: MONAI's constant that keeps the Dice of an absent structure finite.
_SMOOTH = 1e-5


def partial_loss(logits: torch.Tensor, labels: torch.Tensor, fitting: torch.Tensor) -> torch.Tensor:
    """Return the scalar loss.

    ``logits``: (B, C, I, J, K). ``labels``: (B, 1, I, J, K) uint8, of which values from C on teach nothing.
    ``fitting``: (B, C + 1, C), the weights of the classes that each label of a case may stand for, 0 for the others;
    the last row: of values from C on.
    """
    classes = logits.shape[1]
    rows = labels[:, 0].long().clamp(max=classes)
    counted = rows < classes  # (B, I, J, K)
    weights = torch.stack([table[row] for table, row in zip(fitting, rows, strict=True)]).movedim(-1, 1)
    fits = weights > 0
    logs = torch.log_softmax(logits, dim=1)
    right = torch.logsumexp(logs + weights.log(), dim=1)
    entropy = -(right * counted).sum() / counted.sum().clamp(min=1)
    # The probability of all classes that fit a label counts as that of the label itself.
    truth = torch.nn.functional.one_hot(rows, classes + 1)[..., :classes].movedim(-1, 1).to(logs.dtype)
    chances = torch.where(fits, truth * right.exp()[:, None], logs.exp()) * counted[:, None]
    known = fitting[:, 0, 1:] == 0  # (B, C - 1): structures that background does not stand for
    counts = known.to(logs.dtype)[:, :, None, None, None]
    both, sizes = ((values[:, 1:] * counts).sum((0, 2, 3, 4)) for values in (truth * chances, truth + chances))
    dice = (2 * both + _SMOOTH) / (sizes + _SMOOTH)
    used = known.any(0)
    return entropy + ((1 - dice) * used).sum() / used.sum().clamp(min=1)
