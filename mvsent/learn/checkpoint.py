"""Checkpoints, from which a fold continues after a kill: written after every epoch and within long ones."""

import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvsent.errors import RunError
from mvsent.shards.atomic import atomic_write


@dataclass(frozen=True)
class EpochRecord:
    """One line of `history.csv`; accuracies from 0 to 1."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Begun:
    """The finished part of an epoch: its first `step` steps.

    Attributes:
        loss: sum over the rows of these steps.
        correct: number of these rows that were classified correctly.
        seconds: time of these steps.
    """

    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """The state of a fold after `len(history)` epochs and the steps of `begun`.

    Attributes:
        network: the state of the network now.
        best: its state after the epoch with the best validation accuracy (the earliest, in case of ties);
            None before the end of the first epoch.
        optimizer: the state of the optimiser.
        random: the state of torch's random number generators, CPU first, then that of the device.
        of_others: `random` of each rank except the first.
    """

    network: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    random: list[Tensor]
    history: list[EpochRecord]
    begun: Begun = Begun()
    of_others: list[list[Tensor]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write this state to `path` atomically."""
        buffer = io.BytesIO()
        # Not asdict, which would copy every tensor.
        shallow = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {"history": [asdict(record) for record in self.history], "begun": asdict(self.begun)}
        torch.save(shallow | plain, buffer)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read `path`. Raises: RunError if it is not a checkpoint."""
        try:
            with path.open("rb") as file:
                # A checkpoint is a pickle, which could run code without weights_only.
                state = torch.load(file, map_location="cpu", weights_only=True)
            history = [EpochRecord(**record) for record in state.pop("history")]
            begun = Begun(**state.pop("begun", {}))  # older checkpoints contain whole epochs only
            return cls(history=history, begun=begun, **state)
        except OSError:
            raise
        except Exception as error:  # damaged files raise exceptions of any kind
            problem = type(error).__name__
            raise RunError(
                f"{path}: not a checkpoint ({problem})", "Delete it to begin this fold again"
            ) from None


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the generators used by dropout and initialisation on `device`."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def restore_random_state(state: list[Tensor], device: torch.device) -> None:
    """Restore the generators to `state`."""
    of_cpu, *of_cuda = state
    torch.set_rng_state(of_cpu)
    if device.type == "cuda" and of_cuda:
        own = (device.index or 0) if len(of_cuda) > 1 else 0  # older checkpoints have those of all devices
        torch.cuda.set_rng_state(of_cuda[own], device)
