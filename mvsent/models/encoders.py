"""Words to vectors in context, shared by every model that reads words."""

import torch
from torch import Tensor, nn

from mvsent.models.batch import Batch, Sizes


class WordEmbedding(nn.Module):
    """A vector for each word: looked up from trainable pretrained vectors, or given by a transformer."""

    def __init__(self, sizes: Sizes, *, trained: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.size = sizes.word_size
        """`D`, features of one word."""
        if sizes.vectors is not None:
            n_words, n_features = sizes.vectors.shape
            # A copy: the table would share the memory of `sizes.vectors`, and change it when it is trained.
            self.table = nn.Embedding(n_words, n_features, padding_idx=0, _weight=sizes.vectors.clone())
            self.table.weight.requires_grad_(trained)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The words of the text: vectors `[B, S, D]`, zero on padding, and mask `[B, S]`."""
        assert batch.word_mask is not None
        return self._vectors(batch.words, batch.word_vectors), batch.word_mask

    def caption(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same for the words of the caption, for batches with captions."""
        assert batch.caption_mask is not None
        return self._vectors(batch.caption, batch.caption_vectors), batch.caption_mask

    def _vectors(self, numbers: Tensor | None, vectors: Tensor | None) -> Tensor:
        if vectors is None:
            vectors = self.table(numbers)
        embedded: Tensor = self.dropout(vectors)
        return embedded


class LSTMEncoder(nn.Module):
    """An LSTM over words, left to right only, so that padding at the end cannot influence a real word."""

    def __init__(self, n_inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_inputs, hidden, batch_first=True)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` → `[B, S, hidden]`, zero on padding."""
        states: Tensor = self.lstm(embedded)[0]
        return states * mask.unsqueeze(-1)


class BiGRUEncoder(nn.Module):
    """A bidirectional GRU over items; sequences are packed, so that padding influences neither direction."""

    def __init__(self, n_inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_inputs, hidden, batch_first=True, bidirectional=True)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` with the real items first → `[B, S, 2 · hidden]`, zero on padding."""
        # pack_padded_sequence takes lengths on the CPU only, and refuses a length of 0.
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(items, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=items.shape[1]
        )
        return states * mask.unsqueeze(-1)


class TextCNN(nn.Module):
    """Convolutions of several widths over words, with max pooling over time.

    Reference: Kim 2014.
    """

    def __init__(self, n_inputs: int, channels: int, widths: tuple[int, ...] = (3, 4, 5)) -> None:
        super().__init__()
        self.size = channels * len(widths)
        """Features of a text."""
        self.widths = widths
        # Padded, so that a text that is shorter than the window has windows, too.
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_inputs, channels, width, padding=width - 1) for width in widths
        )

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` → `[B, size]`; windows that hold no word do not count."""
        words = (embedded * mask.unsqueeze(-1)).transpose(1, 2)  # [B, D, S]
        lengths = mask.sum(dim=1)
        pooled = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            found = torch.relu(convolution(words))  # [B, channels, S + width - 1], each ≥ 0
            last = lengths + width - 1  # windows from here on hold padding alone
            reach = torch.arange(found.shape[2], device=found.device) < last[:, None]
            pooled.append((found * reach.unsqueeze(1)).amax(dim=2))
        return torch.cat(pooled, dim=1)


class Standardize(nn.BatchNorm1d):
    """Standardises inputs to mean zero and variance one over the training rows; nothing is learned."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__(n_inputs, affine=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, n_inputs]` → `[B, n_inputs]`."""
        if len(inputs) > 1:
            return super().forward(inputs)
        # A last batch of a single row has no variance of its own.
        return nn.functional.batch_norm(inputs, self.running_mean, self.running_var, eps=self.eps)


class PhraseEncoder(nn.Module):
    """Phrases ending at each word: max pooling over windows of several widths.

    Windows end at their word, so that padding cannot influence a real word.

    Reference: Lu et al. 2016, Eq. 1 and 2.
    """

    def __init__(self, n_inputs: int, hidden: int, widths: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_inputs, hidden, width, padding=width - 1) for width in widths
        )

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` → `[B, S, hidden]`, zero on padding."""
        words, n_words = embedded.transpose(1, 2), embedded.shape[1]  # [B, D, S]
        windows = torch.stack([convolution(words)[..., :n_words] for convolution in self.convolutions])
        phrases = torch.tanh(windows.amax(dim=0))  # [B, hidden, S]
        return phrases.transpose(1, 2) * mask.unsqueeze(-1)
