"""Attention over remembered training pairs: similar pairs and their labels.

Keys are the vectors of training pairs, weights a Gaussian of the distance, and values are solved in closed
form: kernel ridge regression. Unlike a network trained on a few thousand pairs, it does not forget them.

References: Saunders, Gammerman & Vovk 1998 (kernel ridge regression); Williams & Seeger 2001 (the Nyström
method, for more pairs than are kept).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import Batch, Sizes
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.pairs import Label

RIDGES = (0.1, 0.3, 1.0, 3.0)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_CHUNK = 1024
_FAR = 30.0  # standard deviations; beyond, half precision is too coarse for distances

Known = tuple[Tensor, Sequence[Tensor]]
"""Vectors `[N, n_inputs]`, and the classes `[N]` of each target, -1 if unknown."""


class Memory(nn.Module):
    """Kernel ridge regression of one-hot targets on standardised vectors; several targets share the keys.

    Ridge and scale of each target maximise the likelihood of the validation rows. Before `solve`, all classes
    have the same probability.
    """

    keys: Tensor
    values: Tensor
    mean: Tensor
    std: Tensor
    prior: Tensor
    scale: Tensor

    def __init__(self, n_inputs: int, n_outputs: Sequence[int], width: float, capacity: int) -> None:
        """
        Args:
            n_inputs: size of a vector.
            n_outputs: classes of each target.
            width: of the Gaussian; the exponent is `width` times the mean squared difference of two vectors.
            capacity: training pairs that are kept; of more, a random choice.
        """
        super().__init__()
        self.n_outputs, self.width, self.capacity = list(n_outputs), width, capacity
        total = sum(n_outputs)
        # In half precision, as the keys are nearly all of a saved model: 24 MB for 3600 pairs.
        self.register_buffer("keys", torch.zeros(0, n_inputs, dtype=torch.half))
        self.register_buffer("values", torch.zeros(0, total))
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("std", torch.ones(n_inputs))
        self.register_buffer("prior", torch.zeros(total))
        self.register_buffer("scale", torch.ones(len(self.n_outputs)))

    def forward(self, vectors: Tensor) -> list[Tensor]:
        """`[B, n_inputs]` → logits `[B, n_outputs]` of each target."""
        found = self._kernel(self._standardised(vectors)) @ self.values + self.prior
        return [part * scale for part, scale in zip(self._parts(found), self.scale, strict=True)]

    @torch.no_grad()
    def solve(self, train: Known, validation: Known) -> None:
        """Compute keys and values from the training rows; choose hyper-parameters on the validation rows."""
        vectors, targets = train
        self.mean = vectors.mean(dim=0)
        spread = vectors.std(dim=0, correction=0)
        self.std = torch.where(spread > 0, spread, 1)
        x = self._standardised(vectors)
        kept = (
            torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: self.capacity].sort().values
        )
        self.keys = x[kept.to(x.device)].half()
        deviations = [self._deviations(target, i) for i, target in enumerate(targets)]
        solutions = self._solutions(x, torch.cat(deviations, dim=1))
        unseen = self._kernel(self._standardised(validation[0])).double()
        answers = [self._parts(unseen @ solution + self.prior) for solution in solutions]
        chosen = []
        for i, target in enumerate(validation[1]):
            tried = [
                (_loss(answer[i] * scale, target), scale, self._parts(solution)[i])
                for answer, solution in zip(answers, solutions, strict=True)
                for scale in SCALES
            ]
            _, self.scale[i], best = min(tried, key=lambda each: each[0])
            chosen.append(best)
        self.values = torch.cat(chosen, dim=1).to(vectors.dtype)

    def _deviations(self, target: Tensor, i: int) -> Tensor:
        """`[N, n_outputs]`: one-hot targets minus their mean, which is remembered; zero where unknown."""
        start = sum(self.n_outputs[:i])
        known = target >= 0
        one_hot = nn.functional.one_hot(target.clamp(min=0), self.n_outputs[i]).double()
        mean = one_hot[known].mean(dim=0) if known.any() else one_hot.new_full((self.n_outputs[i],), 0.0)
        self.prior[start : start + self.n_outputs[i]] = mean
        return (one_hot - mean) * known.unsqueeze(1)

    def _solutions(self, x: Tensor, deviations: Tensor) -> list[Tensor]:
        """Values `[n_keys, total]` for each ridge that fit the training rows best."""
        among = self._kernel(self.keys.float()).double()  # [K, K]
        gram, seen = torch.zeros_like(among), among.new_zeros(len(among), deviations.shape[1])
        for start in range(0, len(x), _CHUNK):
            # In double precision, because the product squares the condition number of the kernel.
            part = self._kernel(x[start : start + _CHUNK]).double()  # [n, K]
            gram += part.T @ part
            seen += part.T @ deviations[start : start + _CHUNK]
        # Repeated tweets are equal keys, which make the system singular.
        jitter = 1e-8 * torch.eye(len(among), dtype=among.dtype, device=among.device) * gram.diagonal().mean()
        return [torch.linalg.solve(gram + ridge * among + jitter, seen) for ridge in RIDGES]

    def _parts(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """`[n, total]` → `[n, n_outputs]` of each target."""
        return torch.split(outputs, self.n_outputs, dim=1)

    def _standardised(self, vectors: Tensor) -> Tensor:
        return ((vectors.float() - self.mean) / self.std).clamp(-_FAR, _FAR)

    def _kernel(self, x: Tensor) -> Tensor:
        """`[n, n_inputs]` → `[n, n_keys]`, one where a vector is a key."""
        squared = torch.cdist(x, self.keys.float()).square()
        return torch.exp(-self.width / max(1, x.shape[1]) * squared)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Only the saved state knows how many pairs are remembered.
        keys, values = (state_dict.get(prefix + name) for name in ("keys", "values"))
        if keys is not None and values is not None and keys.shape[:1] == values.shape[:1]:
            self.keys = self.keys.new_zeros(len(keys), self.keys.shape[1])
            self.values = self.values.new_zeros(len(values), self.values.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _loss(logits: Tensor, target: Tensor) -> float:
    """Mean cross-entropy of the rows whose class is known; zero if there are none."""
    known = target >= 0
    return float(nn.functional.cross_entropy(logits[known], target[known])) if known.any() else 0.0


class PairMemory(nn.Module):
    """Memories of texts, of pictures and of both, which give the label of each modality and the class."""

    rule: Tensor
    ruled: Tensor

    def __init__(self, sizes: Sizes, *, lexicon: bool, heads: bool, width: float, capacity: int) -> None:
        super().__init__()
        self.reads_vector, self.heads = sizes.text_size > 0, heads
        self.n_lexicon = sizes.n_lexicon if lexicon else 0
        n_text, n_image = (sizes.text_size or sizes.word_size) + self.n_lexicon, sizes.channels
        n_outputs = (len(Label), len(Label), sizes.n_classes)
        self.of_text, self.of_image, self.of_both = (
            Memory(n, n_outputs, width, capacity) for n in (n_text, n_image, n_text + n_image)
        )
        self.register_buffer("rule", label_rule(sizes.labels), persistent=False)
        self.register_buffer("ruled", torch.zeros((), dtype=torch.bool))  # training rows had both labels

    def vectors(self, batch: Batch, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text `[B, T + L]` and picture `[B, C]`."""
        assert batch.regions is not None
        text = [whole_text(batch, words, mask, reads_vector=self.reads_vector)]
        if self.n_lexicon:
            assert batch.lexicon is not None
            text.append(batch.lexicon)
        return torch.cat(text, dim=1).float(), batch.regions.float().mean(dim=(2, 3))

    def forward(self, text: Tensor, image: Tensor, see: Tensor, read: Tensor) -> Tensor:
        """Probabilities `[B, n_classes]`; `see` and `read` `[B, 1]` mark the present modalities."""
        by_text, by_image = self.of_text(text), self.of_image(image)
        by_both = self.of_both(torch.cat([text, image], dim=1))
        if not self.ruled:
            return _of_present(
                see, read, *(known[2].softmax(dim=1) for known in (by_both, by_text, by_image))
            )
        # Annotators of a picture have read its text; a text can be judged without its picture.
        text_label = _of_present(see, read, by_text[0], by_text[0], by_image[0])
        image_label = _of_present(see, read, by_both[1], by_text[1], by_image[1])
        return apply_rule(self.rule, text_label, image_label).exp()

    def solve(
        self, train: tuple[Tensor, Tensor, list[Tensor]], validation: tuple[Tensor, Tensor, list[Tensor]]
    ) -> None:
        """Solve each memory on the training rows."""
        for memory, read in (
            (self.of_text, lambda text, image: text),
            (self.of_image, lambda text, image: image),
            (self.of_both, lambda text, image: torch.cat([text, image], dim=1)),
        ):
            known: list[Known] = [
                (read(text, image), targets) for text, image, targets in (train, validation)
            ]
            memory.solve(*known)
        self.ruled.fill_(self.heads and bool((torch.stack(train[2][:2]) >= 0).all()))


def _of_present(see: Tensor, read: Tensor, both: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """Choose each row's answer by its present modalities, `[B, n]`; `both` if neither is present."""
    return torch.where((see > 0) & (read <= 0), image, torch.where((read > 0) & (see <= 0), text, both))


def whole_text(batch: Batch, words: Tensor, mask: Tensor, *, reads_vector: bool) -> Tensor:
    """The vector of the whole text, or else the mean of its word vectors, `[B, n_text]`."""
    if not reads_vector:
        return masked_mean(words, mask)
    assert batch.text_vector is not None
    return batch.text_vector
