"""Training steps shared by several ranks, equal to the steps of one process.

Every rank knows the rows of every step and takes its share. DistributedDataParallel averages the gradients;
each rank's loss is scaled so that the average is the gradient of all rows, and layers that standardize a
batch do so by the rows of all ranks.
"""

import warnings
from dataclasses import dataclass

from torch import Tensor, nn

from mvsent.models.encoders import Standardize
from mvsent.workers.ranks import Ranks


@dataclass(frozen=True)
class LossScale:
    """Factors of a mean over a rank's rows that make the average over ranks the mean over the step's rows.

    Attributes:
        loss: for the cross-entropy, in which rows count by the weights of their classes.
        penalty: for everything else, in which every row counts alike.
    """

    loss: float
    penalty: float

    @classmethod
    def of(cls, mine: Tensor, all_rows: Tensor, class_weights: Tensor | None, ranks: Ranks) -> "LossScale":
        """The factors for a rank whose rows have the targets `mine`, of the step's targets `all_rows`."""
        penalty = ranks.world * len(mine) / len(all_rows)
        if class_weights is None:
            return cls(penalty, penalty)
        weight, weight_of_all = (float(class_weights[rows].double().sum()) for rows in (mine, all_rows))
        return cls(ranks.world * weight / weight_of_all, penalty)


@dataclass
class Step:
    """Numbers of this rank's rows and of all rows in the current step, as synced layers need them."""

    mine: int = 0
    all: int = 0


# torch's SyncBatchNorm does not run on a CPU.
class SyncedStandardize(Standardize):
    """`Standardize` by the mean and variance of all ranks' rows."""

    def __init__(self, of: Standardize, step: Step) -> None:
        super().__init__(of.num_features)
        self.load_state_dict(of.state_dict())
        self.step = step

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, n_inputs]` → `[B, n_inputs]`; a batch that only stands in for no rows does not count."""
        n = self.step.all
        if not self.training or n < 2:
            return nn.functional.batch_norm(inputs, self.running_mean, self.running_var, eps=self.eps)
        counted = inputs.double() * (self.step.mine > 0)
        mean = _summed(counted.sum(dim=0)) / n
        deviations = (inputs.double() - mean) * (self.step.mine > 0)
        variance = _summed(deviations.square().sum(dim=0)) / n
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        # As BatchNorm1d keeps them: the running variance is the unbiased one.
        self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance.detach() * n / (n - 1)).to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)
        standard: Tensor = (inputs.double() - mean) * (variance + self.eps).rsqrt()
        return standard.to(inputs.dtype)


def _summed(values: Tensor) -> Tensor:
    """Sum `values` over the ranks; the gradient flows to all of them."""
    from torch.distributed.nn.functional import all_reduce

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total


def synced(network: nn.Module, ranks: Ranks, step: Step) -> nn.Module:
    """Let the layers of `network` that standardize a batch do so by the rows of all ranks."""
    if ranks.world == 1:
        return network
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Standardize):
                setattr(parent, name, SyncedStandardize(child, step))
    return network
