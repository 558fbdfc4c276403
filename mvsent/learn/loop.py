"""The training loop: an optimiser on the cross-entropy; the best epoch on the validation rows is kept."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mvsent.config import TrainSettings
from mvsent.errors import NonFiniteLossError, RunError
from mvsent.features.device import device_memory_named, single_precision
from mvsent.learn.batches import BatchSource, Rows, cut
from mvsent.learn.checkpoint import Begun, Checkpoint, EpochRecord, random_state, restore_random_state
from mvsent.learn.distributed import LossScale, Step, synced
from mvsent.learn.optimisation import half_precision, make_optimizer, set_rates
from mvsent.models.batch import Batch, Batches, Output, Refitted, Settled, Solved
from mvsent.workers.ranks import ALONE, Ranks

log = logging.getLogger("mvsent")

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """One fold of a protocol: its number, its training rows, and its validation rows."""

    number: int
    train: Rows
    validation: Rows


class Objective(nn.Module):
    """The training objective: cross-entropy of the network's logits, plus the network's own penalty.

    Attributes:
        lower: the type of half precision; None: none.
    """

    def __init__(self, network: nn.Module, class_weights: Tensor | None, lower: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.lower = network, lower
        self.cross_entropy = nn.CrossEntropyLoss(weight=class_weights)

    def forward(self, batch: Batch, scale: LossScale | None = None) -> tuple[Tensor, Tensor]:
        """The loss of the batch, multiplied by `scale`, and its logits `[B, n_classes]`."""
        assert batch.target is not None
        with torch.autocast(batch.target.device.type, dtype=self.lower, enabled=self.lower is not None):
            output: Output = self.network(batch)
        loss: Tensor = self.cross_entropy(output.logits.float(), batch.target)
        if scale is not None:
            loss = loss * scale.loss
        if output.penalty is not None:
            loss = loss + (output.penalty if scale is None else output.penalty * scale.penalty)
        return loss, output.logits


@dataclass
class Trainer:
    """A network, its optimiser, and its device.

    Attributes:
        network: moved to `device`; only parameters that require a gradient are trained.
        class_weights: `[n_classes]` for the loss, or None.
        ranks: the processes that train it, each with a trainer of the same network and source.
    """

    network: nn.Module
    source: BatchSource
    settings: TrainSettings
    device: torch.device
    class_weights: Tensor | None = None
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        self.of_validation: Probabilities | None = None
        """Answers to the validation rows before the network was fitted on them; None if it never is."""
        self.step = Step()
        self.network = synced(self.network, self.ranks, self.step).to(self.device)
        if not isinstance(self.network, Solved):
            self.optimizer = make_optimizer(self.network, self.settings)
        lower = half_precision(self.settings, self.device)
        if self.settings.compile:
            self.network.compile()
        weights = None if self.class_weights is None else self.class_weights.to(self.device)
        self.objective = Objective(self.network, weights, lower)
        self.scaler = torch.amp.GradScaler(enabled=lower == torch.float16)  # bf16 has float32's range

    @device_memory_named()
    @single_precision()  # of the remaining parts in single precision
    def fit(
        self,
        fold: Fold,
        checkpoint: Path,
        *,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[EpochRecord]:
        """Train until the last epoch, or until `patience` epochs bring no improvement; load the best epoch.

        Continues from `checkpoint` if it exists, and replaces it after every epoch, and within one every
        `checkpoint_every` minutes. See `best_epoch` for what is best. Test rows are not known here. `stop` is
        asked after every step.

        Raises:
            NonFiniteLossError: naming fold, epoch and step.
            DeviceMemoryError: a step does not fit the device.
            KeyboardInterrupt: `stop` said so in one of the ranks; the checkpoint is of the step just done.
        """
        if isinstance(self.network, Solved):
            return [self._solve(fold, self.network, on_epoch)]
        history, best, begun = self._restore(checkpoint)
        minimised, saved = self.ranks.wrap(self.objective), time.monotonic()

        def after_step(done: Begun) -> None:
            nonlocal saved
            late = self.ranks.first and 0 < self.settings.checkpoint_every * 60 < time.monotonic() - saved
            ending, due = self.ranks.any(stop(), late)
            if ending or due:
                self._save(checkpoint, history, best, done)
                saved = time.monotonic()
            if ending:
                raise KeyboardInterrupt

        while not self._finished(history):
            started = time.perf_counter() - begun.seconds
            loss, accuracy = self._train_epoch(fold, len(history), minimised, begun, after_step)
            validation_loss, validation_accuracy = self._quality(fold.validation)
            if not math.isfinite(validation_loss):
                raise NonFiniteLossError(
                    f"fold {fold.number}, epoch {len(history)}: the validation loss is {validation_loss}",
                    "Lower --learning-rate, and train again",
                )
            seconds = time.perf_counter() - started
            values = (loss, accuracy, validation_loss, validation_accuracy, seconds)
            record = self.ranks.first_says(partial(EpochRecord, len(history), *values))
            history.append(record)
            if best is None or best_epoch(history, self.settings.best_by) == record.epoch:
                # state_dict refers to the weights, which the next step changes.
                best = copy.deepcopy(self.network.state_dict())
            begun, saved = Begun(), time.monotonic()
            self._save(checkpoint, history, best, begun)
            if on_epoch:
                on_epoch(record)
        assert best is not None
        self.network.load_state_dict(best)
        if isinstance(self.network, Settled):
            self.network.eval()
            with torch.no_grad():
                self.network.settle(self._batches_of(fold.train), self._batches_of(fold.validation))
        self._refit(fold)
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
        self._refit(fold)
        return record

    def _refit(self, fold: Fold) -> None:
        """Keep the answers to the validation rows, then let a model take these rows in, if it does so."""
        if not isinstance(self.network, Refitted):
            return
        self.of_validation = self.predict_proba(fold.validation)
        self.network.eval()
        with torch.no_grad():
            self.network.refit(self._batches_of(fold.train), self._batches_of(fold.validation))

    def _batches_of(self, rows: Rows) -> Batches:
        """The batches of `rows` on the device; can be iterated repeatedly."""
        return lambda: (
            batch.to(self.device) for batch in self.source.batches(cut(rows, self.settings.batch_size))
        )

    @device_memory_named()
    @single_precision()
    def predict_proba(self, rows: Rows) -> Probabilities:
        """`[n, n_classes]` probabilities of `rows`, at least one, in their order; ranks share them.

        Always in single precision, so that `mvsent predict` gives the same answers.
        """
        self.network.eval()
        parts: list[Probabilities] = []
        with torch.inference_mode():
            for batch in self.source.batches(cut(self.ranks.share(rows), self.settings.batch_size)):
                logits = self.network(batch.to(self.device)).logits
                parts.append(torch.softmax(logits, dim=1).cpu().numpy())
        return np.concatenate([part for of_rank in self.ranks.gather(parts) for part in of_rank])

    def dead_channels(self, rows: Rows) -> float | None:
        """The share of channel gates that are zero on all `rows`; None without such gates."""
        self.network.eval()
        alive: Tensor | None = None
        with torch.inference_mode():
            for batch in self.source.batches(cut(rows, self.settings.batch_size)):
                gates = self.network(batch.to(self.device)).attention.get("channel")
                if gates is None:
                    return None
                open_now = (gates > 0).any(dim=0)
                alive = open_now if alive is None else alive | open_now
        return None if alive is None else 1 - float(alive.float().mean())

    def _train_epoch(
        self,
        fold: Fold,
        epoch: int,
        minimised: nn.Module,
        begun: Begun,
        after_step: Callable[[Begun], None],
    ) -> tuple[float, float]:
        """Run the rest of an epoch after `begun`; return the loss and accuracy of the whole epoch."""
        self.network.train()
        started = time.perf_counter() - begun.seconds
        order = self.source.order(fold.train, seed=self.settings.seed, fold=fold.number, epoch=epoch)
        steps = cut(order, self.settings.batch_size)[begun.step :]
        mine = [self.ranks.share(rows) for rows in steps]
        # DDP requires every rank in every step: one without rows takes part with a row that does not count.
        taken = [rows if len(rows) else steps[i][:1] for i, rows in enumerate(mine)]
        if not self.ranks.first:
            begun = replace(begun, loss=0.0, correct=0)  # the first rank has those of all
        pin = self.device.type == "cuda"
        n_steps = begun.step + len(steps)
        for rows, own, host in zip(steps, mine, self.source.batches(taken, pin=pin), strict=True):
            batch = host.to(self.device)
            assert batch.target is not None
            loss, logits = minimised(batch, self._scale(own, rows))
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"fold {fold.number}, epoch {epoch}, step {begun.step}: the loss is {loss.item()}",
                    "Lower --learning-rate, train with --no-amp, or look for infinite values in --words "
                    "or --weights",
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            set_rates(self.optimizer, self.settings, epoch * n_steps + begun.step, n_steps)
            if self.settings.clip_norm:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            right = int((logits.argmax(dim=1) == batch.target).sum()) if len(own) else 0
            begun = Begun(
                begun.step + 1,
                # `_scale` multiplied the loss: the ranks' parts sum to the loss of all rows.
                begun.loss + loss.item() / self.ranks.world * len(rows),
                begun.correct + right,
                time.perf_counter() - started,
            )
            after_step(begun)
        total, correct = self.ranks.sums(begun.loss, begun.correct)
        return total / len(order), correct / len(order)

    def _scale(self, mine: Rows, rows: Rows) -> LossScale | None:
        """Begin a step of `rows`, of which this rank has `mine`; None if nothing is to be scaled."""
        self.step.mine, self.step.all = len(mine), len(rows)
        if self.ranks.world == 1:
            return None
        of_mine, of_all = (torch.from_numpy(self.source.target[some]) for some in (mine, rows))
        return LossScale.of(of_mine, of_all, self.class_weights, self.ranks)

    def _quality(self, rows: Rows) -> tuple[float, float]:
        """Loss and accuracy of `rows`."""
        probabilities = torch.from_numpy(self.predict_proba(rows))
        target = torch.from_numpy(self.source.target[rows])
        loss = nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), target)
        return float(loss), float((probabilities.argmax(dim=1) == target).float().mean())

    def _finished(self, history: list[EpochRecord]) -> bool:
        if not history:
            return False
        waited = len(history) - 1 - best_epoch(history, self.settings.best_by)
        return len(history) >= self.settings.epochs or waited >= self.settings.patience

    def _restore(self, path: Path) -> tuple[list[EpochRecord], dict[str, Tensor] | None, Begun]:
        state = self.ranks.first_says(lambda: Checkpoint.load(path) if path.exists() else None)
        others = state.of_others if state else []
        if not self.ranks.first and self.ranks.rank > len(others):
            # Each rank has its own dropout.
            torch.manual_seed(torch.initial_seed() + (self.ranks.rank << 44))
        if state is None:
            return [], None, Begun()
        try:
            self.network.load_state_dict(state.network)
            self.optimizer.load_state_dict(state.optimizer["adam"])
            if state.optimizer["scaler"]:  # empty if the run was begun in another precision, such as on a CPU
                self.scaler.load_state_dict(state.optimizer["scaler"])
            if self.ranks.rank <= len(others):
                restore_random_state([state.random, *others][self.ranks.rank], self.device)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError):
            raise RunError(
                f"{path}: the checkpoint of another network", "Delete it to begin this fold again"
            ) from None
        return list(state.history), state.best, state.begun

    def _save(
        self, path: Path, history: list[EpochRecord], best: dict[str, Tensor] | None, begun: Begun
    ) -> None:
        """Write a checkpoint of the current state, with the random states of all ranks."""
        loss, correct = self.ranks.sums(begun.loss, begun.correct)
        random, *of_others = self.ranks.gather(random_state(self.device))
        if self.ranks.first:
            optimizer = {"adam": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            whole = replace(begun, loss=loss, correct=int(correct))
            state = self.network.state_dict()
            Checkpoint(state, best, optimizer, random, history, whole, of_others).save(path)
        self.ranks.gather(None)  # no rank goes on before the file is written


def best_epoch(history: list[EpochRecord], by: str = "accuracy") -> int:
    """The index of the epoch to keep: by validation accuracy, then loss, then order; or by loss."""

    def quality(record: EpochRecord) -> tuple[float, ...]:
        accuracy, loss = record.validation_accuracy, -record.validation_loss
        return (loss, -record.epoch) if by == "loss" else (accuracy, loss, -record.epoch)

    return max(history, key=quality).epoch


def inverse_frequency(target: npt.NDArray[np.int64], n_classes: int) -> Tensor:
    """`[n_classes]` weights for the loss, one on average over the rows.

    >>> inverse_frequency(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = np.bincount(target, minlength=n_classes)
    return torch.from_numpy((len(target) / (n_classes * np.maximum(counts, 1))).astype(np.float32))
