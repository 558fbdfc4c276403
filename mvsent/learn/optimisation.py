"""Optimisers, learning rates and precision: what a recipe states about the steps of a training."""

import math
import re
from typing import Any

import torch
from torch import nn

from mvsent.config import TrainSettings
from mvsent.learn.finetune import ThroughEncoders

_LAYER = re.compile(r"(?:layers?|blocks|stages|h)\.?(\d+)\.")
"""The number of a layer, or of a stage and a block, in the name of a parameter."""

RATE = "full_lr"  # of a parameter group: its learning rate before warm-up and decay


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings for the parameters that are trained."""
    groups = parameter_groups(network, settings)
    for group in groups:
        group[RATE] = group["lr"]
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    optimizer: torch.optim.Optimizer = kinds[settings.optimizer](groups, weight_decay=settings.weight_decay)
    return optimizer


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameter groups with their learning rates: encoders have a smaller one than the model.

    With `layer_decay`, the rate of a transformer's layer is that of the layer above times the decay, and the
    embeddings count as the layer below the first (Howard & Ruder 2018, discriminative fine-tuning).
    """
    encoders = network.encoder_parameters() if isinstance(network, ThroughEncoders) else []
    of_encoders = {id(p) for p in encoders}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in of_encoders]
    groups: list[dict[str, Any]] = [{"params": others, "lr": settings.learning_rate}]
    if settings.layer_decay == 1:
        groups.append({"params": encoders, "lr": settings.encoder_learning_rate})
    else:
        named = [(name, p) for name, p in network.named_parameters() if id(p) in of_encoders]
        depths = [_depth(name) for name, _ in named]
        levels = sorted(set(depths))
        for level, depth in enumerate(levels, start=1):
            rate = settings.encoder_learning_rate * settings.layer_decay ** (len(levels) - level)
            params = [p for (_, p), own in zip(named, depths, strict=True) if own == depth]
            groups.append({"params": params, "lr": rate})
    return [group for group in groups if group["params"]]


def _depth(name: str) -> tuple[int, ...]:
    """The depth of a parameter in its encoder, for comparison; that of embeddings is lowest.

    >>> _depth("transformer.encoder.layer.11.output.bias"), _depth("transformer.embeddings.weight")
    ((11,), ())
    >>> _depth("backbone.stages.3.blocks.2.norm.weight"), _depth("backbone.layer4.1.conv1.weight")
    ((3, 2), (4,))
    """
    return tuple(map(int, _LAYER.findall(name)))


def set_rates(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int, per_epoch: int) -> None:
    """Set the learning rates for step number `step`, from 0, of epochs of `per_epoch` steps."""
    if not settings.warmup and settings.decay == "none":
        return
    share = rate_share(step, settings.epochs * per_epoch, settings.warmup, settings.decay)
    for group in optimizer.param_groups:
        group["lr"] = group[RATE] * share


def rate_share(step: int, n_steps: int, warmup: float, decay: str) -> float:
    """The share of the full learning rate in a step: a linear rise, then none, a linear or a cosine fall.

    >>> [rate_share(step, 10, 0.2, "linear") for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    n_warm = math.ceil(warmup * n_steps)
    if step < n_warm:
        return (step + 1) / n_warm
    if decay == "none":
        return 1.0
    done = (step - n_warm) / max(1, n_steps - n_warm)
    return 1 - done if decay == "linear" else (1 + math.cos(math.pi * done)) / 2


def half_precision(settings: TrainSettings, device: torch.device) -> torch.dtype | None:
    """The type of half precision that the training computes in; None for single precision."""
    if device.type == "cuda" and settings.amp:
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
        return torch.bfloat16 if has_bf16 else torch.float16
    # Without the instructions, bfloat16 is ten times slower on a CPU than single precision.
    if device.type == "cpu" and settings.bf16 and cpu_has_bf16():
        return torch.bfloat16
    return None


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)
