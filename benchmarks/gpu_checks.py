"""Checks of a device against the CPU (losses, gradients, answers), and of exact repetition.

Weights are random and rows are drawn. Dropout is off in comparisons of devices, as each draws its own.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.bench_models import examples, table_sizes
from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.learn.batches import Examples
from mvsent.learn.loop import Fold, Trainer
from mvsent.models import registry
from mvsent.workers.devices import rank_device
from mvsent.workers.launcher import in_ranks
from mvsent.workers.ranks import ALONE, Ranks, averaged

CPU = torch.device("cpu")
STEPS = 3  # of an epoch
LOSS_SCALE = 1024.0  # of float16, in which small gradients vanish
NO_DROPOUT = ("dropout", "modality_dropout")
LINKS: dict[str, dict[str, str]] = {"ahrm": {"graph": "tags"}, "hdf": {"links": "tags"}}
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"loss": 1e-4, "gradient": 1e-3, "answers": 1e-3, "trained": 1e-2},
    torch.bfloat16: {"loss": 2e-2, "gradient": 0.3, "answers": 1e-3, "trained": 5e-2},
    torch.float16: {"loss": 5e-3, "gradient": 0.1, "answers": 1e-3, "trained": 5e-2},
}
"""Against float32 on the CPU: loss and gradient (its norm) relative, probabilities before and after training
absolute."""


@dataclass(frozen=True)
class Measured:
    """The finding of a check; `value` is None if this machine has nothing to measure."""

    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """The size of the drawn rows."""

    n_rows: int
    channels: int


def precisions(device: torch.device) -> list[torch.dtype]:
    """The types that AMP may take on `device`, after float32; LSTMs know no float16 on a CPU."""
    if device.type == "cpu":
        return [torch.float32, torch.bfloat16]
    has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return [torch.float32, *[torch.bfloat16] * has_bf16, torch.float16]


def make_trainer(
    name: str,
    options: Mapping[str, Any],
    scale: Scale,
    device: torch.device,
    dtype: torch.dtype,
    *,
    ranks: Ranks = ALONE,
    epochs: int = 1,
) -> Trainer:
    """A trainer of a fresh network, the same on every device, that trains in `dtype`, also on a CPU."""
    torch.manual_seed(0)
    network = registry.build(name, table_sizes(scale.channels), dict(options))
    settings = TrainSettings(model=name, epochs=epochs, batch_size=scale.n_rows // STEPS, amp=False)
    trainer = Trainer(network, drawn(scale), settings, device, ranks=ranks)
    trainer.objective.lower = None if dtype == torch.float32 else dtype
    trainer.scaler = torch.amp.GradScaler(device.type, init_scale=LOSS_SCALE, enabled=dtype == torch.float16)
    return trainer


@lru_cache
def drawn(scale: Scale) -> Examples:
    """Rows with everything that any model reads."""
    return examples(scale.n_rows, scale.channels)


def fold(scale: Scale) -> Fold:
    """Every row is trained on and validated."""
    return Fold(0, train=np.arange(scale.n_rows), validation=np.arange(scale.n_rows))


def fit(trainer: Trainer, scale: Scale) -> Trainer:
    """The trainer, whose network is trained."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(fold(scale), Path(folder) / "checkpoint.pt")
    return trainer


def compare_model(
    name: str, scale: Scale, device: torch.device, dtype: torch.dtype, *, ablations: bool = True
) -> Measured:
    """The largest difference from the CPU, as a share of its tolerance, of a model and its ablations."""
    tolerances = TOLERANCES[dtype]
    worst = dict.fromkeys(tolerances, 0.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for options in variants(name)[: None if ablations else 1]:
            reference = computed(name, options, scale, CPU, torch.float32)
            here = computed(name, options, scale, device, dtype)
            for quantity, difference in differences(here, reference):
                worst[quantity] = max(worst[quantity], difference)
    note = ", ".join(f"{quantity} {difference:.1e}" for quantity, difference in worst.items())
    unordered = {str(each.message).split("\n")[0][:80] for each in said if "determinis" in str(each.message)}
    value = max(difference / tolerances[quantity] for quantity, difference in worst.items())
    return Measured(value, "; ".join([note, *sorted(unordered)]))


def variants(name: str) -> list[tuple[tuple[str, Any], ...]]:
    """The options of the model as it is, without each of its parts, and with links."""
    card = registry.card(name)
    fixed = {option: 0 for option in NO_DROPOUT if option in card.options.model_fields}
    changes = [{}, *card.ablations.values(), *[LINKS[each] for each in LINKS if each == name]]
    return [tuple((fixed | change).items()) for change in changes]


@cache
def computed(
    name: str,
    options: tuple[tuple[str, Any], ...],
    scale: Scale,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Loss and gradient of a step, and probabilities before and after an epoch, on the CPU."""
    trainer = make_trainer(name, dict(options), scale, device, dtype)
    rows = np.arange(scale.n_rows)
    answers = trainer.predict_proba(rows)
    trainer.network.train()
    loss, _ = trainer.objective(drawn(scale).batch(rows).to(device))
    if loss.requires_grad:  # a memory has no parameters
        trainer.scaler.scale(loss).backward()
    gradients = [
        p.grad.flatten() / trainer.scaler.get_scale()
        for p in trainer.network.parameters()
        if p.grad is not None
    ] or [torch.ones(1, device=device)]
    trainer.network.zero_grad(set_to_none=True)
    return {
        "loss": loss.detach().reshape(1).cpu(),
        "gradient": torch.cat(gradients).cpu(),
        "answers": torch.from_numpy(answers),
        "trained": torch.from_numpy(fit(trainer, scale).predict_proba(rows)),
    }


def differences(here: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """The difference of each quantity, by name; infinite if one of the two is not finite."""
    for name, wanted in reference.items():
        apart = here[name] - wanted
        relative = float(apart.norm() / wanted.norm())
        difference = relative if name in ("loss", "gradient") else float(apart.abs().max())
        yield name, difference if math.isfinite(difference) else math.inf


def resumed(name: str, scale: Scale, device: torch.device, dtype: torch.dtype) -> Measured:
    """The largest difference of a weight between training in one go, and stopped after a step and resumed."""
    whole = fit(make_trainer(name, {}, scale, device, dtype, epochs=2), scale)
    worst = 0.0
    for n_steps in (1, STEPS + 1):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, steps = Path(folder) / "checkpoint.pt", iter(range(n_steps, 0, -1))
            stopped = make_trainer(name, {}, scale, device, dtype, epochs=2)
            with suppress(KeyboardInterrupt):
                stopped.fit(fold(scale), checkpoint, stop=lambda steps=steps: next(steps) == 1)  # type: ignore[misc]
            again = make_trainer(name, {}, scale, device, dtype, epochs=2)
            torch.manual_seed(12345)  # another process would not have our random state either
            again.fit(fold(scale), checkpoint)
        worst = max(worst, apart(whole.network, again.network))
    return Measured(worst, f"stopped after steps 1 and {STEPS + 1} of {2 * STEPS}")


def apart(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two networks' weights; infinite if one is not finite."""
    of_other = other.state_dict()
    values = [
        float((values.double() - of_other[key].double()).abs().max())
        for key, values in one.state_dict().items()
        if values.numel()
    ]
    return max(value if math.isfinite(value) else math.inf for value in values)


class OneRank(Ranks):
    """A single rank that trains through DistributedDataParallel, as several ranks do."""

    def wrap(self, objective: nn.Module) -> nn.Module:
        return averaged(objective)


def one_rank(name: str, scale: Scale, device: torch.device, dtype: torch.dtype) -> Measured:
    """The largest difference of a weight between training as one rank of DDP and without DDP."""
    plain = fit(make_trainer(name, {}, scale, device, dtype), scale)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        shared = fit(make_trainer(name, {}, scale, device, dtype, ranks=OneRank()), scale)
    finally:
        dist.destroy_process_group()
    return Measured(apart(plain.network, shared.network), f"over {backend}")


def two_ranks(name: str, scale: Scale, device: torch.device) -> Measured:
    """The largest difference of a probability between two ranks and one process, on one device.

    The ranks communicate over gloo, because NCCL allows one rank per device.
    """
    options = variants(name)[0]
    call = partial(answers_of_rank, name, options, scale, device)
    shared = np.array(in_ranks(call, 2, lambda run: None))
    reference = computed(name, options, scale, device, torch.float32)["trained"].numpy()
    return Measured(float(np.abs(shared - reference).max()), "over gloo")


def answers_of_rank(
    name: str, options: tuple[tuple[str, Any], ...], scale: Scale, device: torch.device, *, ready: Any
) -> list[list[float]]:
    """The probabilities of every row by the network that two ranks trained."""
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    ranks = Ranks(rank, 2, rank, 2, dist.new_group(backend="gloo"))
    trainer = fit(make_trainer(name, dict(options), scale, device, torch.float32, ranks=ranks), scale)
    answers = trainer.predict_proba(np.arange(scale.n_rows))
    dist.destroy_process_group()
    listed: list[list[float]] = answers.tolist()
    return listed


def refused_ranks() -> Measured:
    """The number of ranks that are accepted although it exceeds the number of GPUs; 0 if refused."""
    n = torch.cuda.device_count() + 1
    try:
        rank_device("cuda", Ranks(0, n, 0, n))
    except UsageError as error:
        return Measured(0.0, str(error))
    return Measured(float(n), "NCCL takes one rank a device")
