"""What a fold needs to continue after kill -9: written after every epoch, whole or not at all."""

import io
from dataclasses import asdict, dataclass, fields
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
class Checkpoint:
    """The state of a fold after `len(history)` epochs.

    Attributes:
        network: the state of the network now.
        best: its state after the epoch with the best validation accuracy (the earliest of equals).
        optimizer: the state of the optimiser.
        random: the state of torch's random number generators, CPU first.
    """

    network: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    random: list[Tensor]
    history: list[EpochRecord]

    def save(self, path: Path) -> None:
        """Replace `path` by this state; a reader sees the old one or the new one, never half."""
        buffer = io.BytesIO()
        shallow = {f.name: getattr(self, f.name) for f in fields(self)}
        torch.save(shallow | {"history": [asdict(record) for record in self.history]}, buffer)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read `path`. Raises: RunError when it is not a checkpoint."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            history = [EpochRecord(**record) for record in state.pop("history")]
            return cls(history=history, **state)
        except OSError:
            raise
        except Exception as error:  # unpickling a damaged file raises anything
            problem = type(error).__name__
            raise RunError(
                f"{path}: not a checkpoint ({problem})", "Delete it to begin this fold again"
            ) from None


def random_state() -> list[Tensor]:
    """The state of every generator that dropout and initialisation draw from."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def restore_random_state(state: list[Tensor]) -> None:
    """Undo what was drawn since `state` was taken."""
    torch.set_rng_state(state[0])
    if torch.cuda.is_available() and len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
