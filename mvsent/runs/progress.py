"""Progress of a fold: a bar on a terminal, otherwise a line for each epoch."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from mvsent.errors import UsageError
from mvsent.learn.checkpoint import EpochRecord
from mvsent.runs.run_folder import RunFolder
from mvsent.storage import local_only


class EpochProgress:
    """Shows loss, accuracy and maximum remaining time after every epoch.

    Raises: UsageError if `--tensorboard` is given but tensorboard is not installed.
    """

    def __init__(self, run: RunFolder, fold: int, *, quiet: bool) -> None:
        place = run.wanted_folds.index(fold) + 1
        self.name = f"fold {fold} ({place} of {len(run.wanted_folds)})"
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            total=run.settings.epochs, desc=self.name, unit="epoch", disable=quiet or self.lines, leave=True
        )

        self.events = None
        if run.settings.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                next_step = "Run: pip install 'mvsent[tensorboard]'"
                raise UsageError("--tensorboard: not installed", next_step) from None
            self.events = SummaryWriter(str(local_only(run.fold(fold), "what --tensorboard writes")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self.events:
            self.events.close()

    def __call__(self, record: EpochRecord) -> None:
        state = f"loss {record.train_loss:.3f} validation accuracy {record.validation_accuracy:.3f}"
        # Not by one: a resumed fold begins with a later epoch.
        self.bar.update(record.epoch + 1 - self.bar.n)
        self.bar.set_postfix_str(state)
        if self.events:
            for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
                self.events.add_scalar(name.replace("_", "/"), getattr(record, name), record.epoch)
        if self.lines:
            tqdm.write(f"{self.name} epoch {record.epoch} {state} {record.seconds:.1f} s", file=sys.stderr)
