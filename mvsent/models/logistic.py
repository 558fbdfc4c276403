"""Multinomial logistic regression on pooled features: the baseline that a network has to beat."""

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import LEXICON, REGIONS, TEXT_VECTOR, WORDS, Batch, Batches, Output, Sizes
from mvsent.models.encoders import WordEmbedding
from mvsent.models.registry import ModelCard, register
from mvsent.setting import Settings

NEVER = -1e4
"""Logit of a class without training rows; finite in half precision."""


class LogisticOptions(Settings):
    """Regularisation strengths to choose from on the validation rows."""

    c: str = "0.001,0.003,0.01,0.03,0.1,1.0"  # inverse strengths of the L2 penalty, increasing
    max_iter: int = Field(default=1000, ge=1)

    @field_validator("c")
    @classmethod
    def _positive(cls, value: str) -> str:
        strengths = [float(part) for part in value.split(",")]
        if not all(0 < strength < float("inf") for strength in strengths):
            raise ValueError("not positive numbers with commas between them")
        return value

    @property
    def strengths(self) -> list[float]:
        """The numbers of `c`, increasing."""
        return sorted(float(part) for part in self.c.split(","))


@register(
    ModelCard(
        name="logistic",
        citation=(
            "mvsent: a baseline that no paper claims. Multinomial logistic regression on the mean of the "
            "map, the text and, where there are any, the lexicon's scores"
        ),
        url="https://scikit-learn.org/stable/modules/linear_model.html#logistic-regression",
        fidelity="exact",
        fidelity_note="It is scikit-learn's, on features that the code defines.",
        reads=frozenset({REGIONS, WORDS}),
        may_read=frozenset({TEXT_VECTOR, LEXICON}),
        options=LogisticOptions,
        kind="baseline",
    )
)
class Logistic(nn.Module):
    """A linear layer on standardised features, fitted by scikit-learn."""

    mean: Tensor
    std: Tensor

    def __init__(self, sizes: Sizes, options: LogisticOptions) -> None:
        super().__init__()
        self.options, self.sizes = options, sizes
        self.embedding = None if sizes.text_size else WordEmbedding(sizes)
        n_features = sizes.channels + (sizes.text_size or sizes.word_size) + sizes.n_lexicon
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.linear = nn.Linear(n_features, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.linear((self.features(batch) - self.mean) / self.std))

    def features(self, batch: Batch) -> Tensor:
        """`[B, F]`: the mean of the map; the text's vector, or else the mean of its words'; the lexicon."""
        assert batch.regions is not None
        parts = [batch.regions.float().mean(dim=(2, 3))]
        if self.embedding is None:
            assert batch.text_vector is not None
            parts.append(batch.text_vector.float())
        else:
            parts.append(masked_mean(*self.embedding(batch)))
        if self.sizes.n_lexicon:
            assert batch.lexicon is not None
            parts.append(batch.lexicon.float())
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def solve(self, train: Batches, validation: Batches) -> None:
        """Fit every strength; keep the one with the highest validation accuracy, then the lowest loss.

        Ties go to the strongest penalty. Mean and deviation are those of the training rows.
        """
        x, y = self._gather(train)
        self.mean.copy_(x.mean(dim=0))
        spread = x.std(dim=0, correction=0)
        self.std.copy_(torch.where(spread > 0, spread, 1))  # a constant feature stays zero
        fits = self._fits((x - self.mean) / self.std, y)
        x, y = self._gather(validation)
        x = (x - self.mean) / self.std
        weight, bias = max(fits, key=lambda fit: _quality(nn.functional.linear(x, *fit), y))
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def _gather(self, rows: Batches) -> tuple[Tensor, Tensor]:
        """Features `[n, F]` and classes `[n]` of all the rows."""
        features, targets = [], []
        for host in rows():
            batch = host.to(self.mean.device)
            assert batch.target is not None
            features.append(self.features(batch))
            targets.append(batch.target)
        return torch.cat(features), torch.cat(targets)

    def _fits(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight `[n_classes, F]` and bias `[n_classes]` for each strength, from the weakest up."""
        from sklearn.linear_model import LogisticRegression

        classes = torch.unique(y)
        # scikit-learn refuses to fit a single class.
        if len(classes) < 2:
            return [self._padded(x.new_zeros(1, x.shape[1]), x.new_zeros(1), classes)]
        # Each fit starts from the previous one, as a slightly weaker penalty changes the solution little.
        regression = LogisticRegression(max_iter=self.options.max_iter, warm_start=True)
        fits = []
        for strength in self.options.strengths:
            regression.set_params(C=strength).fit(x.cpu().double().numpy(), y.cpu().numpy())
            weight = torch.as_tensor(regression.coef_).to(x)
            bias = torch.as_tensor(regression.intercept_).to(x)
            if len(weight) == 1:  # scikit-learn has one row for two classes, that of the second
                weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
            fits.append(self._padded(weight, bias, classes))
        return fits

    def _padded(self, weight: Tensor, bias: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for every class of the run; classes without training rows are never predicted."""
        whole, biases = torch.zeros_like(self.linear.weight), torch.full_like(self.linear.bias, NEVER)
        whole[classes], biases[classes] = weight, bias
        return whole, biases


def _quality(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Accuracy and negative loss, compared as for the trainer's best epoch."""
    accuracy = (logits.argmax(dim=1) == target).float().mean()
    return float(accuracy), -float(nn.functional.cross_entropy(logits, target))
