"""HSAN: hierarchical attention over words and sentences, with the picture represented by its caption.

The picture itself is not read: without captions this is the hierarchical attention network of Yang et al.
2016 on the text alone.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention
from mvsent.models.batch import CAPTION, SENTENCES, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import BiGRUEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class HSANOptions(Settings):
    """Sizes, which are choices, and whether the picture has a say."""

    caption: bool = True  # read the caption, where there is one, as one more sentence after the text
    hidden: int = Field(default=64, ge=1)  # of each direction of a GRU
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="hsan",
        tables=frozenset({2}),
        citation=(
            "Nan Xu: Analyzing Multimodal Public Sentiment Based on Hierarchical Semantic Attentional "
            "Network. IEEE International Conference on Intelligence and Security Informatics (ISI), 2017"
        ),
        url="https://doi.org/10.1109/ISI.2017.8004895",
        fidelity="substitute",
        fidelity_note=(
            "The dataset's own captions, where it has any, stand for those of the paper's captioning network."
        ),
        reads=frozenset({WORDS, SENTENCES}),
        may_read=frozenset({CAPTION}),
        options=HSANOptions,
        published={
            "mvsa-single": Published(accuracy=66.90),
            "mvsa-multiple": Published(accuracy=67.76),
        },
    )
)
class HSAN(nn.Module):
    """Hierarchical semantic attentional network: attention over words, then over sentences.

    Reference: Xu 2017, after Yang et al. 2016.
    """

    def __init__(self, sizes: Sizes, options: HSANOptions) -> None:
        super().__init__()
        d = 2 * options.hidden
        self.reads_caption = options.caption
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.encode_words = BiGRUEncoder(self.embedding.size, options.hidden)
        self.attend_words = AdditiveAttention(d)
        self.encode_sentences = BiGRUEncoder(d, options.hidden)
        self.attend_sentences = AdditiveAttention(d)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention map `words`.

        The attention of a word is its weight within the sentence times the weight of the sentence, rescaled
        so that the words of the text sum to one; the caption is left out.
        """
        words, mask, sentence = self.words(batch)  # [B, S', D], [B, S'], [B, S']
        pair, of_word = mask.nonzero()[:, 0], sentence[mask]  # [N], row and sentence of each real word
        first = torch.ones_like(pair, dtype=torch.bool)  # [N], whether each word begins a sentence
        first[1:] = (pair[1:] != pair[:-1]) | (of_word[1:] != of_word[:-1])
        row = first.cumsum(dim=0) - 1  # [N], which of all R sentences each word is in
        # [R, d] and [N], then [B, d] and [R]
        sentences, alpha = _read(words[mask], row, self.encode_words, self.attend_words)
        tweets, beta = _read(sentences, pair[first], self.encode_sentences, self.attend_sentences)
        weights = alpha.new_zeros(mask.shape)  # [B, S']
        weights[mask] = alpha * beta[row]
        return Output(self.classifier(self.dropout(tweets)), {"words": _of_text(weights, batch)})

    def words(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The words of the text and then of the caption, their mask, and which sentence each is in."""
        assert batch.sentence is not None
        words, mask = self.embedding(batch)
        sentence = batch.sentence
        # A text without words counts as one empty word, so that every pair has a sentence.
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)
        if not self.reads_caption or batch.caption_mask is None:
            return words, mask, sentence
        caption, caption_mask = self.embedding.caption(batch)
        next_sentence = (sentence * mask).amax(dim=1, keepdim=True) + 1  # [B, 1]
        return (
            torch.cat([words, caption], dim=1),
            torch.cat([mask, caption_mask], dim=1),
            torch.cat([sentence, next_sentence.expand_as(caption_mask)], dim=1),
        )


def _read(items: Tensor, row: Tensor, encode: nn.Module, attend: nn.Module) -> tuple[Tensor, Tensor]:
    """Each row of items as one vector: `[N, D]` of rows `[N]`, in order → `[R, d]`, and the weights `[N]`."""
    lengths = row.bincount()  # [R]
    mask = torch.arange(int(lengths.max()), device=row.device) < lengths[:, None]  # [R, longest]
    grid = items.new_zeros(*mask.shape, items.shape[1])
    grid[mask] = items
    vectors, weights = attend(encode(grid, mask), mask)  # [R, d], [R, longest]
    return vectors, weights[mask]


def _of_text(weights: Tensor, batch: Batch) -> Tensor:
    """`[B, S']` → the weights of the text's words, rescaled to sum to one, `[B, S]`."""
    assert batch.word_mask is not None
    kept = weights[:, : batch.word_mask.shape[1]] * batch.word_mask
    # Without the bound, a text without words would divide zero by zero.
    return kept / kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
