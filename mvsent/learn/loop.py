"""The training loop: Adam on the cross-entropy, the epoch with the best validation accuracy wins."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mvsent.config import TrainSettings
from mvsent.errors import NonFiniteLossError, RunError
from mvsent.learn.batches import Rows, Source, cut
from mvsent.learn.checkpoint import Checkpoint, EpochRecord, random_state, restore_random_state
from mvsent.learn.finetune import ThroughEncoders
from mvsent.models.batch import Batch, Batches, Output, Settled, Solved

log = logging.getLogger("mvsent")

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """One round of a protocol: its number and the rows to train on and to choose the epoch by."""

    number: int
    train: Rows
    validation: Rows


@dataclass
class Trainer:
    """A network, its optimiser, and where they compute.

    Attributes:
        network: moved to `device`; only parameters that require a gradient are trained.
        class_weights: `[n_classes]` for the loss, or None.
    """

    network: nn.Module
    source: Source
    settings: TrainSettings
    device: torch.device
    class_weights: Tensor | None = None

    def __post_init__(self) -> None:
        cuda = self.device.type == "cuda"
        self.network.to(self.device)
        if not isinstance(self.network, Solved):
            groups = parameter_groups(self.network, self.settings)
            self.optimizer = torch.optim.Adam(groups, weight_decay=self.settings.weight_decay)
        self.loss = nn.CrossEntropyLoss(
            weight=None if self.class_weights is None else self.class_weights.to(self.device)
        )
        self.amp = cuda and self.settings.amp
        self.half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported(False) else torch.float16
        self.scaler = torch.amp.GradScaler(enabled=self.amp and self.half == torch.float16)

    def fit(
        self, fold: Fold, checkpoint: Path, *, on_epoch: Callable[[EpochRecord], None] | None = None
    ) -> list[EpochRecord]:
        """Train to the last epoch or until `patience` epochs bring nothing better; the best epoch is loaded.

        Continues from `checkpoint` where it exists, and replaces it after every epoch. "Best" is the highest
        validation accuracy, among equals the lowest validation loss. Test rows are not known here.

        Raises: NonFiniteLossError naming fold, epoch and step.
        """
        if isinstance(self.network, Solved):
            return [self._solve(fold, self.network, on_epoch)]
        history, best = self._restore(checkpoint)
        while not self._finished(history):
            started = time.perf_counter()
            loss, accuracy = self._train_epoch(fold, len(history))
            validation_loss, validation_accuracy = self._quality(fold.validation)
            if not math.isfinite(validation_loss):
                raise NonFiniteLossError(
                    f"fold {fold.number}, epoch {len(history)}: the validation loss is {validation_loss}",
                    "Lower --learning-rate, and train again",
                )
            seconds = time.perf_counter() - started
            record = EpochRecord(len(history), loss, accuracy, validation_loss, validation_accuracy, seconds)
            history.append(record)
            if best is None or best_epoch(history) == record.epoch:
                best = copy.deepcopy(self.network.state_dict())
            self._checkpoint(history, best).save(checkpoint)
            if on_epoch:
                on_epoch(record)
        assert best is not None
        self.network.load_state_dict(best)
        if isinstance(self.network, Settled):
            self.network.eval()
            with torch.no_grad():
                self.network.settle(self._batches_of(fold.train), self._batches_of(fold.validation))
        return history

    def _solve(
        self, fold: Fold, network: Solved, on_epoch: Callable[[EpochRecord], None] | None
    ) -> EpochRecord:
        """Fit a model that needs no epochs; the record is as of one."""
        started = time.perf_counter()
        network.solve(self._batches_of(fold.train), self._batches_of(fold.validation))
        loss, accuracy = self._quality(fold.train)
        validation_loss, validation_accuracy = self._quality(fold.validation)
        seconds = time.perf_counter() - started
        record = EpochRecord(0, loss, accuracy, validation_loss, validation_accuracy, seconds)
        if on_epoch:
            on_epoch(record)
        return record

    def _batches_of(self, rows: Rows) -> Batches:
        """The batches of `rows` on the device, as often as they are asked for."""
        return lambda: (
            batch.to(self.device) for batch in self.source.batches(cut(rows, self.settings.batch_size))
        )

    def predict_proba(self, rows: Rows) -> Probabilities:
        """`[n, n_classes]` probabilities of `rows`, at least one, in their order."""
        self.network.eval()
        parts = []
        with torch.inference_mode():
            for batch in self.source.batches(cut(rows, self.settings.batch_size)):
                logits = self._forward(batch.to(self.device)).logits.float()
                parts.append(torch.softmax(logits, dim=1).cpu().numpy())
        return np.concatenate(parts)

    def dead_channels(self, rows: Rows) -> float | None:
        """The share of channel gates that are zero on every one of `rows`; None without such gates."""
        self.network.eval()
        alive: Tensor | None = None
        with torch.inference_mode():
            for batch in self.source.batches(cut(rows, self.settings.batch_size)):
                gates = self._forward(batch.to(self.device)).attention.get("channel")
                if gates is None:
                    return None
                open_now = (gates > 0).any(dim=0)
                alive = open_now if alive is None else alive | open_now
        return None if alive is None else 1 - float(alive.float().mean())

    def _train_epoch(self, fold: Fold, epoch: int) -> tuple[float, float]:
        self.network.train()
        order = self.source.order(fold.train, seed=self.settings.seed, fold=fold.number, epoch=epoch)
        total, correct = 0.0, 0
        steps = cut(order, self.settings.batch_size)
        pin = self.device.type == "cuda"
        for step, host in enumerate(self.source.batches(steps, pin=pin)):
            batch = host.to(self.device)
            assert batch.target is not None
            output = self._forward(batch)
            logits = output.logits
            loss = self.loss(logits.float(), batch.target)
            if output.penalty is not None:
                loss = loss + output.penalty
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"fold {fold.number}, epoch {epoch}, step {step}: the loss is {loss.item()}",
                    "Lower --learning-rate, or look for infinite values in --words or --weights",
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total += loss.item() * len(logits)
            correct += int((logits.argmax(dim=1) == batch.target).sum())
        return total / len(order), correct / len(order)

    def _quality(self, rows: Rows) -> tuple[float, float]:
        """Loss and accuracy of `rows`."""
        probabilities = torch.from_numpy(self.predict_proba(rows))
        target = torch.from_numpy(self.source.target[rows])
        loss = nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), target)
        return float(loss), float((probabilities.argmax(dim=1) == target).float().mean())

    def _forward(self, batch: Batch) -> Output:
        # Half precision never on CPU: bf16 is ten times slower on machines without the instructions for it.
        with torch.autocast("cuda", dtype=self.half, enabled=self.amp):
            output: Output = self.network(batch)
        return output

    def _finished(self, history: list[EpochRecord]) -> bool:
        if not history:
            return False
        waited = len(history) - 1 - best_epoch(history)
        return len(history) >= self.settings.epochs or waited >= self.settings.patience

    def _restore(self, path: Path) -> tuple[list[EpochRecord], dict[str, Tensor] | None]:
        if not path.exists():
            return [], None
        state = Checkpoint.load(path)
        try:
            self.network.load_state_dict(state.network)
            self.optimizer.load_state_dict(state.optimizer["adam"])
            self.scaler.load_state_dict(state.optimizer["scaler"])
            restore_random_state(state.random)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError):
            raise RunError(
                f"{path}: the checkpoint of another network", "Delete it to begin this fold again"
            ) from None
        return list(state.history), state.best

    def _checkpoint(self, history: list[EpochRecord], best: dict[str, Tensor]) -> Checkpoint:
        optimizer = {"adam": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return Checkpoint(self.network.state_dict(), best, optimizer, random_state(), history)


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """What is trained, with its learning rate: encoders learn in smaller steps than what reads them."""
    encoders = network.encoder_parameters() if isinstance(network, ThroughEncoders) else []
    of_encoders = {id(p) for p in encoders}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in of_encoders]
    groups = [
        {"params": others, "lr": settings.learning_rate},
        {"params": encoders, "lr": settings.encoder_learning_rate},
    ]
    return [group for group in groups if group["params"]]


def best_epoch(history: list[EpochRecord]) -> int:
    """The epoch to keep: the highest validation accuracy, then the lowest validation loss, then the first."""
    return max(history, key=lambda r: (r.validation_accuracy, -r.validation_loss, -r.epoch)).epoch


def inverse_frequency(target: npt.NDArray[np.int64], n_classes: int) -> Tensor:
    """`[n_classes]` weights for the loss, one on average over the rows.

    >>> inverse_frequency(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = np.bincount(target, minlength=n_classes)
    return torch.from_numpy((len(target) / (n_classes * np.maximum(counts, 1))).astype(np.float32))
