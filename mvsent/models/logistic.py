"""Multinomial logistic regression on pooled features: the baseline that a network has to beat."""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import (
    IMAGE_VECTOR,
    LEXICON,
    MODALITY_LABELS,
    REGIONS,
    TEXT_VECTOR,
    WORDS,
    Batch,
    Batches,
    Output,
    Sizes,
)
from mvsent.models.encoders import WordEmbedding
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.models.registry import ModelCard, register
from mvsent.pairs import Label
from mvsent.setting import Settings

Fit = tuple[Tensor, Tensor]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NEVER = -1e4
"""Logit of a class without training rows; finite in half precision."""


class LogisticOptions(Settings):
    """Regularisation strengths to choose from on the validation rows."""

    c: str = "0.001,0.003,0.01,0.03,0.1,1.0"  # inverse strengths of the L2 penalty, increasing
    max_iter: int = Field(default=1000, ge=1)
    rule: bool = True  # also a label of each modality, joined by the label rule, if the rows have them
    refit: bool = True  # on validation rows, too, once everything is chosen by them

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
            "map, the text and, where there are any, the picture's vector and the lexicon's scores; of the "
            "class and of the label of each modality"
        ),
        url="https://scikit-learn.org/stable/modules/linear_model.html#logistic-regression",
        fidelity="exact",
        fidelity_note="It is scikit-learn's, on features that the code defines.",
        reads=frozenset({REGIONS, WORDS}),
        may_read=frozenset({TEXT_VECTOR, IMAGE_VECTOR, LEXICON, MODALITY_LABELS}),
        options=LogisticOptions,
        kind="baseline",
    )
)
class Logistic(nn.Module):
    """Linear layers on standardised features, fitted by scikit-learn: of the class and, with `rule`, of the
    labels of text and picture, which the label rule joins.
    """

    mean: Tensor
    std: Tensor
    rule: Tensor
    ruled: Tensor

    def __init__(self, sizes: Sizes, options: LogisticOptions) -> None:
        super().__init__()
        self.options, self.sizes = options, sizes
        self.chosen: list[float] = []
        self.embedding = None if sizes.text_size else WordEmbedding(sizes)
        n_features = sizes.channels + (sizes.text_size or sizes.word_size)
        n_features += sizes.n_lexicon + sizes.image_vector_size
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.linear = nn.Linear(n_features, sizes.n_classes)
        self.of_text, self.of_image = (nn.Linear(n_features, len(Label)) for _ in range(2))
        self.register_buffer("rule", label_rule(sizes.labels), persistent=False)
        self.register_buffer("ruled", torch.zeros(()))  # share of the rule beside the class itself

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.answer((self.features(batch) - self.mean) / self.std))

    def answer(self, x: Tensor) -> Tensor:
        """Logits `[B, n_classes]` of standardised features `[B, F]`."""
        logits: Tensor = self.linear(x)
        if self.ruled == 0:
            return logits
        by_rule = apply_rule(self.rule, self.of_text(x), self.of_image(x))
        return logits.log_softmax(dim=1).lerp(by_rule.to(logits.dtype), self.ruled)

    def features(self, batch: Batch) -> Tensor:
        """`[B, F]`: the mean of the map, vectors of picture and text, the lexicon.

        Without a vector of the text it is the mean of its words'.
        """
        assert batch.regions is not None
        parts = [batch.regions.float().mean(dim=(2, 3))]
        if self.sizes.image_vector_size:
            assert batch.image_vector is not None
            parts.append(batch.image_vector.float())
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

        Ties go to the strongest penalty. The share of the label rule has the lowest validation loss. Mean and
        deviation are those of the training rows.
        """
        (x, targets), (unseen, truth) = self._gather(train), self._gather(validation)
        layers = (self.linear, self.of_text, self.of_image)
        rules = self.options.rule and all(bool((target >= 0).all()) for target in (*targets, *truth))
        chosen = []
        for layer, y, known in zip(layers[: 3 if rules else 1], targets, truth, strict=False):
            standard = self._standardise(x)
            fits = self._fits(standard, y, layer.out_features, self.options.strengths)
            new = (unseen - self.mean) / self.std
            best = max(range(len(fits)), key=lambda i: _quality(nn.functional.linear(new, *fits[i]), known))
            _set(layer, fits[best])
            chosen.append(self.options.strengths[best] if len(fits) > 1 else self.options.strengths[0])
        if rules:
            self._choose_share((unseen - self.mean) / self.std, truth[0])
        self.chosen = chosen

    @torch.no_grad()
    def refit(self, train: Batches, validation: Batches) -> None:
        """Fit again, with the strengths that `solve` chose, on training and validation rows."""
        if not self.options.refit:
            return
        (x, targets), (unseen, truth) = self._gather(train), self._gather(validation)
        standard = self._standardise(torch.cat([x, unseen]))
        layers = (self.linear, self.of_text, self.of_image)
        for layer, y, known, strength in zip(layers, targets, truth, self.chosen, strict=False):
            _set(layer, self._fits(standard, torch.cat([y, known]), layer.out_features, [strength])[0])

    def _standardise(self, x: Tensor) -> Tensor:
        """Take mean and deviation of the rows; return them standardised."""
        self.mean.copy_(x.mean(dim=0))
        spread = x.std(dim=0, correction=0)
        self.std.copy_(torch.where(spread > 0, spread, 1))  # a constant feature stays zero
        return (x - self.mean) / self.std

    def _choose_share(self, x: Tensor, target: Tensor) -> None:
        losses = []
        for share in SHARES:
            self.ruled.fill_(share)
            losses.append((float(nn.functional.cross_entropy(self.answer(x), target)), share))
        self.ruled.fill_(min(losses)[1])

    def _gather(self, rows: Batches) -> tuple[Tensor, list[Tensor]]:
        """Features `[n, F]`, and `[n]` classes, text labels and image labels of the rows; -1 if unknown."""
        features, targets = [], []
        for host in rows():
            batch = host.to(self.mean.device)
            assert batch.target is not None
            features.append(self.features(batch))
            unknown = torch.full_like(batch.target, -1)
            given = (batch.target, batch.text_target, batch.image_target)
            targets.append([unknown if each is None else each for each in given])
        return torch.cat(features), [torch.cat(each) for each in zip(*targets, strict=True)]

    def _fits(self, x: Tensor, y: Tensor, n_classes: int, strengths: list[float]) -> list[Fit]:
        """Weight `[n_classes, F]` and bias `[n_classes]` for each strength, from the weakest up."""
        from sklearn.linear_model import LogisticRegression

        classes = torch.unique(y)
        # scikit-learn refuses to fit a single class.
        if len(classes) < 2:
            return [_padded(x.new_zeros(1, x.shape[1]), x.new_zeros(1), classes, n_classes)]
        # Each fit starts from the previous one, as a slightly weaker penalty changes the solution little.
        regression = LogisticRegression(max_iter=self.options.max_iter, warm_start=True)
        fits = []
        for strength in strengths:
            regression.set_params(C=strength).fit(x.cpu().double().numpy(), y.cpu().numpy())
            weight = torch.as_tensor(regression.coef_).to(x)
            bias = torch.as_tensor(regression.intercept_).to(x)
            if len(weight) == 1:  # scikit-learn has one row for two classes, that of the second
                weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
            fits.append(_padded(weight, bias, classes, n_classes))
        return fits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Versions without the rule have the class alone.
        state_dict.setdefault(prefix + "ruled", torch.zeros(()))
        for name in ("of_text", "of_image"):
            for key, value in getattr(self, name).state_dict().items():
                state_dict.setdefault(f"{prefix}{name}.{key}", value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _padded(weight: Tensor, bias: Tensor, classes: Tensor, n_classes: int) -> Fit:
    """The same for every class of the run; classes without training rows are never predicted."""
    whole, biases = weight.new_zeros(n_classes, weight.shape[1]), bias.new_full((n_classes,), NEVER)
    whole[classes], biases[classes] = weight, bias
    return whole, biases


def _set(layer: nn.Linear, fit: Fit) -> None:
    layer.weight.copy_(fit[0])
    layer.bias.copy_(fit[1])


def _quality(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Accuracy and negative loss, compared as for the trainer's best epoch."""
    accuracy = (logits.argmax(dim=1) == target).float().mean()
    return float(accuracy), -float(nn.functional.cross_entropy(logits, target))
