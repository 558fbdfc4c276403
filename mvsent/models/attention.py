"""Attention shared by models. `B` batch, `S` words, `M` regions, `D` features, `C H W` a map."""

import torch
from einops import rearrange
from torch import Tensor, nn


def masked_softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over `dim` where `mask` is True; exactly zero elsewhere, and all zero where nothing is True.

    >>> masked_softmax(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[True, True, False]]), dim=1)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    lowest = torch.finfo(scores.dtype).min  # not -inf: a row of padding alone would become NaN
    weights = torch.softmax(scores.masked_fill(~mask, lowest), dim=dim)
    return weights * mask  # rows without any word become zero instead of uniform


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real words of `sequence [B, S, D]` under `mask [B, S]`; zero without real words.

    >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3.]])
    """
    total = (sequence * mask.unsqueeze(-1)).sum(dim=1)  # [B, D]
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


class ChannelAttention(nn.Module):
    """Channel attention: one gate for each channel of a map.

    Reference: Yadav & Vishwakarma 2020, Eq. 1 (after Woo et al. 2018, CBAM).
    """

    def __init__(self, channels: int, reduction: int, gate: nn.Module) -> None:
        super().__init__()
        self.w0 = nn.Linear(channels, max(1, channels // reduction))
        self.w1 = nn.Linear(max(1, channels // reduction), channels)
        self.gate = gate

    def forward(self, m: Tensor) -> Tensor:
        """`[B, C, H, W]` → gates `[B, C]`."""
        mp = m.amax(dim=(2, 3))  # [B, C]
        gap = m.mean(dim=(2, 3))  # [B, C]
        a_c: Tensor = self.gate(self.w1(self.w0(mp)) + self.w1(self.w0(gap)))  # Eq. 1
        return a_c


class SpatialAttention(nn.Module):
    """Spatial attention: one gate for each region of a map.

    Reference: Yadav & Vishwakarma 2020, Eq. 2 (after Woo et al. 2018, CBAM).
    """

    def __init__(self, gate: nn.Module, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.gate = gate

    def forward(self, f: Tensor) -> Tensor:
        """`[B, C, H, W]` → gates `[B, 1, H, W]`."""
        ap = f.mean(dim=1, keepdim=True)  # [B, 1, H, W]
        mp = f.amax(dim=1, keepdim=True)  # [B, 1, H, W]
        a_s: Tensor = self.gate(self.conv(torch.cat([ap, mp], dim=1)))  # Eq. 2
        return a_s


def regions_of(feature_map: Tensor) -> Tensor:
    """`[B, C, H, W]` → the sequence of regions `[B, M = H·W, C]`."""
    return rearrange(feature_map, "b c h w -> b (h w) c")


def weighted_sum(weights: Tensor, items: Tensor) -> Tensor:
    """`[B, S]`, `[B, S, D]` → `[B, D]`."""
    return torch.einsum("bs,bsd->bd", weights, items)


class AdditiveAttention(nn.Module):
    """Pool a sequence to one vector by additive attention, with or without a guide.

    Reference: Bahdanau et al. 2015; without a guide, Yang et al. 2016.
    """

    def __init__(self, size: int, guide_size: int = 0) -> None:
        super().__init__()
        self.of_item = nn.Linear(size, size)
        self.of_guide = nn.Linear(guide_size, size, bias=False) if guide_size else None
        self.score = nn.Linear(size, 1, bias=False)

    def forward(
        self, items: Tensor, mask: Tensor | None = None, guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`[B, N, D]`, `[B, N]` (without: all are real), `[B, G]` → vector `[B, D]`, weights `[B, N]`."""
        hidden = self.of_item(items)  # [B, N, D]
        if self.of_guide is not None:
            hidden = hidden + self.of_guide(guide).unsqueeze(1)
        scores = self.score(torch.tanh(hidden)).squeeze(-1)  # [B, N]
        weights = torch.softmax(scores, dim=1) if mask is None else masked_softmax(scores, mask, dim=1)
        return weighted_sum(weights, items), weights


def attended_regions(words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from words to regions: `[B, S, D]`, `[B, M, D]` → `[B, S, D]`, weights `[B, S, M]`.

    Scores are scaled dot products, so that no tensor has words, regions and features at once.

    Reference: Vaswani et al. 2017, Eq. 1.
    """
    scores = torch.einsum("bsd,bmd->bsm", words, regions) / words.shape[-1] ** 0.5
    weights = torch.softmax(scores, dim=2)
    return torch.einsum("bsm,bmd->bsd", weights, regions), weights
