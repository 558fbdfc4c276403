"""LoRA: a fine-tuned encoder keeps its weights, and small matrices beside its linear layers are trained.

Reference: Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models; by the library peft. A saved
network has the matrices merged into its weights, so that nothing else needs peft.
"""

import copy
from collections.abc import Iterable

from torch import nn

from mvsent.errors import UsageError, WeightsError, first_line

ALPHA = 2.0  # by which the matrices' product is scaled, ÷ rank: twice the rank, as is usual
DROPOUT = 0.05


def add_lora(encoder: nn.Module, rank: int, beside: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Add matrices of `rank` beside those linear layers of `encoder` whose weights are `beside`; return them.

    Raises: WeightsError if peft is missing; UsageError for an encoder without linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise WeightsError("--lora needs the package peft", 'pip install "mvsent[lora]"') from None
    wanted = {id(parameter) for parameter in beside}
    modules = encoder.named_modules()
    names = [name for name, m in modules if isinstance(m, nn.Linear) and id(m.weight) in wanted]
    if not names:
        what = "--lora: what is fine-tuned of the encoder has no linear layers"
        raise UsageError(what, "Fine-tune it without --lora")
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,  # type: ignore[arg-type]
        lora_dropout=DROPOUT,
        target_modules=names,
    )
    try:
        inject_adapter_in_model(config, encoder)
    except ValueError as error:
        raise UsageError(f"--lora: {first_line(error)}", "Fine-tune it without --lora") from None
    return [parameter for name, parameter in encoder.named_parameters() if "lora_" in name]


def merged(network: nn.Module) -> nn.Module:
    """A copy of the network with the matrices merged into the weights; itself, if it has none."""
    if not any("lora_" in name for name, _ in network.named_parameters()):
        return network
    from peft.tuners.tuners_utils import BaseTunerLayer

    copied = copy.deepcopy(network)
    for name, module in [*copied.named_modules()]:
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, module.get_base_layer())
    return copied
