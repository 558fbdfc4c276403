"""The rule that joins the labels of text and picture, applied to probabilities.

Reference: Yadav & Vishwakarma 2020, §4.1 A.
"""

import numpy as np
import torch
from torch import Tensor

from mvsent.curate.labels import combine

_TINY = 1e-6


def label_rule(labels: tuple[int, ...]) -> Tensor:
    """The rule as a tensor `[3, 3, n_classes]`: 1 if text and image label give the class.

    >>> label_rule((0, 1, 2))[2, 1]
    tensor([0., 0., 1.])
    >>> label_rule((0, 1, 2))[2, 0].sum()
    tensor(0.)
    """
    text, image = (grid.ravel().astype(np.int8) for grid in np.indices((3, 3)))
    made = torch.from_numpy(combine(text, image)).view(3, 3)
    return torch.stack([(made == label).float() for label in labels], dim=2)


def apply_rule(rule: Tensor, of_text: Tensor, of_image: Tensor) -> Tensor:
    """Log-probabilities of the classes by the label rule, given that the modalities do not conflict.

    `[3, 3, n_classes]`, logits `[B, 3]` and `[B, 3]` → `[B, n_classes]`.
    """
    # In half precision the gradient of the logarithm overflows where a class is unlikely.
    with torch.autocast(rule.device.type, enabled=False):
        text, image = of_text.float().softmax(dim=1), of_image.float().softmax(dim=1)
        pairs = text.unsqueeze(2) * image.unsqueeze(1)  # [B, 3, 3]
        # A class that the rule cannot give has probability zero, and no logarithm.
        likely = torch.einsum("bti,tic->bc", pairs, rule) + _TINY
        return (likely / likely.sum(dim=1, keepdim=True)).log()
