"""Attention over remembered training pairs: similar pairs and their labels.

Keys are the vectors of training pairs, weights a Gaussian of the distance, and values are solved in closed
form: kernel ridge regression. Unlike a network trained on a few thousand pairs, it does not forget them.

References: Saunders, Gammerman & Vovk 1998 (kernel ridge regression); Williams & Seeger 2001 (the Nyström
method, for more pairs than are kept).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import Batch, Batches, Sizes
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.pairs import Label

WEIGHT_OF_TEXT, WEIGHT_OF_PICTURE, WEIGHT_OF_LEXICON = 1.07, 0.71, 0.14
"""How much the mean squared difference of each kind of feature counts.

Chosen among 24 by the mean likelihood of the validation rows of MVSA-Single (docs/ablations.md).
"""

JOINT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RIDGES = (0.1, 0.3, 1.0, 3.0)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_CHUNK = 1024
_TINY = 1e-6
_FAR = 30.0  # standard deviations; beyond, half precision is too coarse for distances

Known = tuple[Tensor, Sequence[Tensor]]
"""Vectors `[N, n_inputs]`, and the classes `[N]` of each target, -1 if unknown."""


KnownPairs = tuple[Tensor, Tensor, list[Tensor]]
"""Vectors of texts and of pictures, and the classes of each target."""


class Memory(nn.Module):
    """Kernel ridge regression of one-hot targets on standardised vectors; several targets share the keys.

    Ridge and scale of each target maximise the likelihood of the validation rows; `refit` then solves it on
    all rows. Before `solve`, all classes have the same probability.
    """

    factor: Tensor

    keys: Tensor
    values: Tensor
    mean: Tensor
    std: Tensor
    prior: Tensor
    scale: Tensor

    def __init__(
        self, blocks: Sequence[tuple[int, float]], n_outputs: Sequence[int], width: float, capacity: int
    ) -> None:
        """
        Args:
            blocks: sizes and weights of the parts of a vector.
            n_outputs: classes of each target.
            width: of the Gaussian; the exponent is `width` times the weighted sum over the blocks of the mean
                squared difference of two vectors.
            capacity: training pairs that are kept; of more, a random choice.
        """
        super().__init__()
        self.n_outputs, self.width, self.capacity = list(n_outputs), width, capacity
        n_inputs = sum(size for size, _ in blocks)
        factors = [torch.full((size,), width * weight / max(1, size)) for size, weight in blocks]
        self.register_buffer("factor", torch.cat(factors))
        self.chosen_ridges: list[float] = []
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
        solutions = self._remember(train, RIDGES)
        unseen = self._kernel(self._standardised(validation[0])).double()
        answers = [self._parts(unseen @ solution + self.prior) for solution in solutions]
        chosen, self.chosen_ridges = [], []
        for i, target in enumerate(validation[1]):
            tried = [
                (_loss(answer[i] * scale, target), scale, ridge, self._parts(solution)[i])
                for answer, solution, ridge in zip(answers, solutions, RIDGES, strict=True)
                for scale in SCALES
            ]
            _, self.scale[i], ridge, best = min(tried, key=lambda each: each[0])
            chosen.append(best)
            self.chosen_ridges.append(ridge)
        self.values = torch.cat(chosen, dim=1).to(train[0].dtype)

    @torch.no_grad()
    def refit(self, known: Known) -> None:
        """Compute keys and values anew from all rows, with the ridges and scales that `solve` chose."""
        ridges = sorted(set(self.chosen_ridges))
        solutions = dict(zip(ridges, self._remember(known, ridges), strict=True))
        parts = [self._parts(solutions[ridge])[i] for i, ridge in enumerate(self.chosen_ridges)]
        self.values = torch.cat(parts, dim=1).to(known[0].dtype)

    def _remember(self, known: Known, ridges: Sequence[float]) -> list[Tensor]:
        """Compute the keys of the rows; return values `[n_keys, total]` for each ridge."""
        vectors, targets = known
        self.mean = vectors.mean(dim=0)
        spread = vectors.std(dim=0, correction=0)
        self.std = torch.where(spread > 0, spread, 1)
        x = self._standardised(vectors)
        kept = (
            torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: self.capacity].sort().values
        )
        self.keys = x[kept.to(x.device)].half()
        deviations = [self._deviations(target, i) for i, target in enumerate(targets)]
        return self._solutions(x, torch.cat(deviations, dim=1), ridges)

    def _deviations(self, target: Tensor, i: int) -> Tensor:
        """`[N, n_outputs]`: one-hot targets minus their mean, which is remembered; zero where unknown."""
        start = sum(self.n_outputs[:i])
        known = target >= 0
        one_hot = nn.functional.one_hot(target.clamp(min=0), self.n_outputs[i]).double()
        mean = one_hot[known].mean(dim=0) if known.any() else one_hot.new_full((self.n_outputs[i],), 0.0)
        self.prior[start : start + self.n_outputs[i]] = mean
        return (one_hot - mean) * known.unsqueeze(1)

    def _solutions(self, x: Tensor, deviations: Tensor, ridges: Sequence[float]) -> list[Tensor]:
        """Values `[n_keys, total]` for each ridge that fit the training rows best."""
        among = self._kernel(self.keys.float()).double()  # [K, K]
        identity = torch.eye(len(among), dtype=among.dtype, device=among.device)
        if len(x) == len(among):  # every row is a key, and the equations below have the kernel as a factor
            factors = (torch.linalg.cholesky(among + ridge * identity) for ridge in ridges)
            return [torch.cholesky_solve(deviations, factor) for factor in factors]
        gram, seen = torch.zeros_like(among), among.new_zeros(len(among), deviations.shape[1])
        for start in range(0, len(x), _CHUNK):
            # In double precision, because the product squares the condition number of the kernel.
            part = self._kernel(x[start : start + _CHUNK]).double()  # [n, K]
            gram += part.T @ part
            seen += part.T @ deviations[start : start + _CHUNK]
        # Repeated tweets are equal keys, which make the system singular.
        jitter = 1e-8 * identity * gram.diagonal().mean()
        return [torch.linalg.solve(gram + ridge * among + jitter, seen) for ridge in ridges]

    def _parts(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """`[n, total]` → `[n, n_outputs]` of each target."""
        return torch.split(outputs, self.n_outputs, dim=1)

    def _standardised(self, vectors: Tensor) -> Tensor:
        return ((vectors.float() - self.mean) / self.std).clamp(-_FAR, _FAR)

    def _kernel(self, x: Tensor) -> Tensor:
        """`[n, n_inputs]` → `[n, n_keys]`, one where a vector is a key."""
        root = self.factor.sqrt()
        return torch.exp(-torch.cdist(x * root, self.keys.float() * root).square())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Only the saved state knows how many pairs are remembered.
        keys, values = (state_dict.get(prefix + name) for name in ("keys", "values"))
        if keys is not None and values is not None and keys.shape[:1] == values.shape[:1]:
            self.keys = self.keys.new_zeros(len(keys), self.keys.shape[1])
            self.values = self.values.new_zeros(len(values), self.values.shape[1])
        # Memories of versions without blocks: every feature counts the same.
        n_inputs = len(self.factor)
        state_dict.setdefault(prefix + "factor", torch.full((n_inputs,), self.width / max(1, n_inputs)))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _loss(logits: Tensor, target: Tensor) -> float:
    """Mean cross-entropy of the rows whose class is known; zero if there are none."""
    known = target >= 0
    return float(nn.functional.cross_entropy(logits[known], target[known])) if known.any() else 0.0


class PairMemory(nn.Module):
    """Memories of texts, of pictures and of both, which give the label of each modality and the class."""

    rule: Tensor
    ruled: Tensor
    joint: Tensor

    def __init__(self, sizes: Sizes, *, lexicon: bool, heads: bool, width: float, capacity: int) -> None:
        super().__init__()
        self.reads_vector, self.heads = sizes.text_size > 0, heads
        self.n_lexicon = sizes.n_lexicon if lexicon else 0
        text = [(sizes.text_size or sizes.word_size, WEIGHT_OF_TEXT), (self.n_lexicon, WEIGHT_OF_LEXICON)]
        image = [(sizes.channels + sizes.image_vector_size, WEIGHT_OF_PICTURE)]
        n_outputs = (len(Label), len(Label), sizes.n_classes)
        self.of_text, self.of_image, self.of_both = (
            Memory(blocks, n_outputs, width, capacity) for blocks in (text, image, text + image)
        )
        self.reads_image_vector = sizes.image_vector_size > 0
        self.register_buffer("rule", label_rule(sizes.labels), persistent=False)
        self.register_buffer("ruled", torch.zeros((), dtype=torch.bool))  # training rows had both labels
        self.register_buffer("joint", torch.zeros(()))  # share of the class itself beside the rule's

    def vectors(self, batch: Batch, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text `[B, T + L]` and picture `[B, C + V]`."""
        assert batch.regions is not None
        text = [whole_text(batch, words, mask, reads_vector=self.reads_vector)]
        if self.n_lexicon:
            assert batch.lexicon is not None
            text.append(batch.lexicon)
        image = [batch.regions.float().mean(dim=(2, 3))]
        if self.reads_image_vector:
            assert batch.image_vector is not None
            image.append(batch.image_vector.float())
        return torch.cat(text, dim=1).float(), torch.cat(image, dim=1)

    def forward(self, text: Tensor, image: Tensor, see: Tensor, read: Tensor) -> Tensor:
        """Probabilities `[B, n_classes]`; `see` and `read` `[B, 1]` mark the present modalities."""
        by_text, by_image = self.of_text(text), self.of_image(image)
        by_both = self.of_both(torch.cat([text, image], dim=1))
        whole = _of_present(
            see, read, *(known[2].log_softmax(dim=1) for known in (by_both, by_text, by_image))
        )
        if not self.ruled:
            return whole.exp()
        # Annotators of a picture have read its text; a text can be judged without its picture.
        text_label = _of_present(see, read, by_text[0], by_text[0], by_image[0])
        image_label = _of_present(see, read, by_both[1], by_text[1], by_image[1])
        # A geometric mean of what the rule makes of the two labels and of the class itself.
        return apply_rule(self.rule, text_label, image_label).lerp(whole, self.joint).softmax(dim=1)

    def solve(self, train: KnownPairs, validation: KnownPairs) -> None:
        """Solve each memory on the training rows; choose the rest on the validation rows."""
        for memory, read in self._memories():
            memory.solve((read(*train[:2]), train[2]), (read(*validation[:2]), validation[2]))
        self.ruled.fill_(self.heads and bool((torch.stack(train[2][:2]) >= 0).all()))
        text, image, targets = validation
        there, losses = text.new_ones(len(text), 1), []
        for share in JOINT_SHARES if self.ruled else JOINT_SHARES[:1]:
            self.joint.fill_(share)
            losses.append((_loss(log_of(self(text, image, there, there)), targets[2]), share))
        self.joint.fill_(min(losses)[1])

    def refit(self, train: KnownPairs, validation: KnownPairs) -> None:
        """Solve each memory anew on training and validation rows, with what `solve` chose."""
        targets = [torch.cat(both) for both in zip(train[2], validation[2], strict=True)]
        text, image = (torch.cat([train[i], validation[i]]) for i in (0, 1))  # type: ignore[list-item]
        for memory, read in self._memories():
            memory.refit((read(text, image), targets))

    def known(self, rows: Batches, embedding: Callable[[Batch], tuple[Tensor, Tensor]]) -> KnownPairs:
        """Vectors of the texts and pictures of all rows, and the classes of each target, -1 if unknown."""
        texts, images, targets = [], [], []
        for batch in rows():
            text, image = self.vectors(batch, *embedding(batch))
            texts.append(text)
            images.append(image)
            assert batch.target is not None
            unknown = torch.full_like(batch.target, -1)
            given = (batch.text_target, batch.image_target)
            targets.append([*(unknown if each is None else each for each in given), batch.target])
        return torch.cat(texts), torch.cat(images), [torch.cat(each) for each in zip(*targets, strict=True)]

    def _memories(self) -> Iterator[tuple[Memory, Callable[[Tensor, Tensor], Tensor]]]:
        """Each memory, and what it reads of text and picture."""
        yield self.of_text, lambda text, image: text
        yield self.of_image, lambda text, image: image
        yield self.of_both, lambda text, image: torch.cat([text, image], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "joint", torch.zeros(()))  # versions without it: the rule alone
        super()._load_from_state_dict(state_dict, prefix, *args)


def present(batch: Batch) -> tuple[Tensor, Tensor]:
    """Whether each pair has a picture, and a text, `[B, 1]` each."""
    assert batch.regions is not None
    see, read = (
        batch.regions.new_ones(batch.regions.shape[0], 1)
        if flag is None
        else flag.to(batch.regions.dtype).unsqueeze(1)
        for flag in (batch.has_image, batch.has_text)
    )
    return see, read


def log_of(probabilities: Tensor) -> Tensor:
    """Logarithms that are finite for a probability of zero, too."""
    return probabilities.clamp_min(_TINY).log()


def _of_present(see: Tensor, read: Tensor, both: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """Choose each row's answer by its present modalities, `[B, n]`; `both` if neither is present."""
    return torch.where((see > 0) & (read <= 0), image, torch.where((read > 0) & (see <= 0), text, both))


def whole_text(batch: Batch, words: Tensor, mask: Tensor, *, reads_vector: bool) -> Tensor:
    """The vector of the whole text, or else the mean of its word vectors, `[B, n_text]`."""
    if not reads_vector:
        return masked_mean(words, mask)
    assert batch.text_vector is not None
    return batch.text_vector
