"""Words to vectors in context, shared by every model that reads words."""

from torch import Tensor, nn


class WordEmbedding(nn.Module):
    """A vector for each word number, starting from pretrained vectors; padding is always zero."""

    def __init__(self, vectors: Tensor, *, trained: bool, dropout: float = 0.0) -> None:
        super().__init__()
        n_words, n_features = vectors.shape
        self.table = nn.Embedding(n_words, n_features, padding_idx=0, _weight=vectors.clone())
        self.table.weight.requires_grad_(trained)
        self.dropout = nn.Dropout(dropout)

    @property
    def size(self) -> int:
        """`D`, features of one word."""
        return int(self.table.embedding_dim)

    def forward(self, words: Tensor) -> Tensor:
        """`[B, S]` → `[B, S, D]`."""
        embedded: Tensor = self.dropout(self.table(words))
        return embedded


class LSTMEncoder(nn.Module):
    """Each word in the light of the words before it.

    It reads left to right only, so that padding at the end cannot reach a real word.
    """

    def __init__(self, n_inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_inputs, hidden, batch_first=True)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` → `[B, S, hidden]`, zero on padding."""
        states: Tensor = self.lstm(embedded)[0]
        return states * mask.unsqueeze(-1)
