"""dmlanet-plus: DMLANet extended by whole vectors, a memory, the label rule and modality dropout.

Four parts are added to DMLANet's attention over both modalities; each can be switched off:

1. Vectors of the whole text and picture beside the attended ones, as attention alone overfits a few thousand
   pairs.
2. Attention over the training pairs themselves (`memory`), on the whole vectors, solved in closed form.
3. A head for each modality, trained on that modality's own label, and the rule of §4.1 A, which joins the two
   labels and need not be learned. A joint head decides beside it.
4. Modality dropout: training pairs without picture or text, so that one modality is enough (the paper's §5).
   The memory is solved for the text alone, the picture alone, and both.

Several members that differ only in their seeds may be averaged: `members=5`.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import (
    AdditiveAttention,
    ChannelAttention,
    SpatialAttention,
    masked_mean,
    regions_of,
)
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
from mvsent.models.encoders import Standardize, WordEmbedding
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.models.memory import PairMemory, log_of, present, whole_text
from mvsent.models.registry import ModelCard, register
from mvsent.pairs import Label
from mvsent.setting import Settings

_SHARES = 21  # of the memory in the whole, evenly from 0 to 1


class DMLANetPlusOptions(Settings):
    """Sizes, and switches for the parts."""

    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.6, ge=0, lt=1)
    attention: bool = True  # over channels, regions and words
    whole: bool = True  # vectors of the whole text and picture, in the network
    lexicon: bool = True
    heads: bool = True  # one a modality, joined by the label rule
    modality_dropout: float = Field(default=0.1, ge=0, lt=0.5)  # of each modality
    memory: bool = True  # attention over training pairs
    memory_width: float = Field(default=0.7, gt=0, allow_inf_nan=False)
    memory_pairs: int = Field(default=4096, ge=1)  # kept of the training pairs
    refit: bool = True  # the memory on validation rows, too, once everything is chosen by them
    share: float | None = Field(default=None, ge=0, le=1)  # of the memory; none: fitted on validation rows
    members: int = Field(default=1, ge=1)  # networks with other seeds, averaged


@register(
    ModelCard(
        name="dmlanet-plus",
        citation=(
            "mvsent: DMLANet (Yadav & Vishwakarma 2020) with vectors of the whole text and picture, a "
            "memory of training pairs, modality heads joined by the label rule, and modality dropout"
        ),
        url="https://arxiv.org/abs/2012.08256",
        fidelity="substitute",
        fidelity_note="It is not the paper's network, but one in its spirit.",
        reads=frozenset({REGIONS, WORDS}),
        may_read=frozenset({TEXT_VECTOR, IMAGE_VECTOR, LEXICON, MODALITY_LABELS}),
        options=DMLANetPlusOptions,
        ablations={
            "w/o memory": {"memory": "false"},
            "w/o network": {"share": "1"},
            "w/o attention": {"attention": "false"},
            "w/o whole vectors": {"whole": "false"},
            "w/o lexicon": {"lexicon": "false"},
            "w/o modality heads and label rule": {"heads": "false"},
            "w/o modality dropout": {"modality_dropout": "0"},
        },
        kind="ours",
    )
)
class DMLANetPlus(nn.Module):
    """The average of members, and a memory that is solved after they are trained."""

    share: Tensor

    def __init__(self, sizes: Sizes, options: DMLANetPlusOptions) -> None:
        super().__init__()
        self.options = options
        self.embedding = WordEmbedding(sizes)
        self.members = nn.ModuleList(_Member(sizes, options) for _ in range(options.members))
        self.memory = (
            PairMemory(
                sizes,
                lexicon=options.lexicon,
                heads=options.heads,
                width=options.memory_width,
                capacity=options.memory_pairs,
            )
            if options.memory
            else None
        )
        self.register_buffer("share", torch.zeros(()))

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`; attention `channel`, `spatial`, `regions`, `words` of the first member.

        In evaluation they are the logarithm of the average of members and memory. In training they are those
        of the first member, whose loss is that of the trainer; the penalty has the losses of all others.
        """
        words, mask = self.embedding(batch)
        outputs: list[Output] = [member(batch, words, mask) for member in self.members]
        if not self.training:
            likely = self.by_network(outputs)
            if self.memory is not None and self.share > 0:
                likely = likely.lerp(self.by_memory(batch, words, mask).to(likely.dtype), self.share)
            return Output(log_of(likely), outputs[0].attention)
        losses = [output.penalty for output in outputs if output.penalty is not None]
        if batch.target is not None:
            losses += [nn.functional.nll_loss(output.logits, batch.target) for output in outputs[1:]]
        return Output(outputs[0].logits, outputs[0].attention, torch.stack(losses).sum())

    def by_network(self, outputs: list[Output]) -> Tensor:
        """Probabilities `[B, n_classes]`, averaged over the members."""
        return torch.stack([output.logits for output in outputs]).exp().mean(dim=0)

    def by_memory(self, batch: Batch, words: Tensor, mask: Tensor) -> Tensor:
        """`[B, n_classes]` probabilities."""
        assert self.memory is not None
        probabilities: Tensor = self.memory(*self.memory.vectors(batch, words, mask), *present(batch))
        return probabilities

    def settle(self, train: Batches, validation: Batches) -> None:
        """Solve the memory on the training rows, and choose its share on the validation rows."""
        if self.memory is None:
            return
        known = self.memory.known(train, self.embedding), self.memory.known(validation, self.embedding)
        self.memory.solve(*known)
        if self.options.share is not None:
            self.share.fill_(self.options.share)
        else:
            network, memory = torch.cat([self._of_truth(batch) for batch in validation()], dim=1)  # [N] each
            shares = torch.linspace(0, 1, _SHARES, device=network.device)
            likely = network + shares[:, None] * (memory - network)  # [21, N]
            self.share.copy_(shares[log_of(likely).sum(dim=1).argmax()])

    def refit(self, train: Batches, validation: Batches) -> None:
        """Refit the memory on training and validation rows."""
        if self.memory is not None and self.options.refit:
            known = (self.memory.known(rows, self.embedding) for rows in (train, validation))
            self.memory.refit(*known)

    def _of_truth(self, batch: Batch) -> Tensor:
        """Probability of the true class by network and by memory, `[2, B]`."""
        assert batch.target is not None
        words, mask = self.embedding(batch)
        network = self.by_network([member(batch, words, mask) for member in self.members])
        both = torch.stack([network, self.by_memory(batch, words, mask)])  # [2, B, n_classes]
        return both.gather(2, batch.target.expand(2, -1).unsqueeze(-1)).squeeze(-1)


class _Member(nn.Module):
    """One network. Its logits are logarithms of probabilities."""

    rule: Tensor

    def __init__(self, sizes: Sizes, options: DMLANetPlusOptions) -> None:
        super().__init__()
        self.options, d = options, options.hidden
        self.n_text = sizes.text_size or sizes.word_size
        n_lexicon = sizes.n_lexicon if options.lexicon else 0
        self.n_lexicon = n_lexicon
        self.reads_vector = sizes.text_size > 0
        self.dropout = nn.Dropout(options.dropout)
        n_of_text, n_of_image = 0, 0
        if options.whole:
            self.whole_text = Standardize(self.n_text)
            self.whole_image = Standardize(sizes.channels)
            n_of_text, n_of_image = self.n_text, sizes.channels
        if n_lexicon:
            self.strengths = Standardize(n_lexicon)
            n_of_text += n_lexicon
        if options.attention:
            self.project = nn.Conv2d(sizes.channels, d, 1)
            self.channel_attention = ChannelAttention(d, 16, nn.Sigmoid())
            self.spatial_attention = SpatialAttention(nn.Sigmoid())
            self.to_word = nn.Linear(sizes.word_size, d)
            self.words_for_image = AdditiveAttention(d, guide_size=d)
            self.regions_for_text = AdditiveAttention(d, guide_size=d)
            n_of_text, n_of_image = n_of_text + d, n_of_image + d
        n_both = n_of_text + n_of_image
        self.joint = self._head(n_both, sizes.n_classes)
        if options.heads:
            self.of_text = self._head(n_of_text, len(Label))
            self.of_image = self._head(n_both, len(Label))  # annotators of a picture have read its text
            self.balance = nn.Linear(n_both, 2)  # Eq. 7's split, between the rule and the joint head
            self.register_buffer("rule", label_rule(sizes.labels), persistent=False)

    def _head(self, n_inputs: int, n_outputs: int) -> nn.Module:
        hidden = self.options.hidden
        return nn.Sequential(
            nn.Dropout(self.options.dropout),
            nn.Linear(n_inputs, hidden),
            nn.ReLU(),
            nn.Dropout(self.options.dropout),
            nn.Linear(hidden, n_outputs),
        )

    def forward(self, batch: Batch, words: Tensor, mask: Tensor) -> Output:
        assert batch.regions is not None
        attention: dict[str, Tensor] = {}
        see, read = self.kept(batch)  # [B, 1] each
        image, text = self.vectors(batch, words, mask, see, read, attention)
        both = torch.cat([image, text], dim=1)
        joint = self.joint(both).log_softmax(dim=1)  # [B, n_classes]
        if not self.options.heads:
            return Output(joint, attention, joint.new_zeros(()) if self.training else None)
        of_text, of_image = self.of_text(text), self.of_image(both)  # [B, 3] each
        ruled = apply_rule(self.rule, of_text, of_image)  # [B, n_classes]
        balance = self.balance(both).log_softmax(dim=1)  # [B, 2]
        logits = torch.logsumexp(torch.stack([balance[:, :1] + ruled, balance[:, 1:] + joint]), dim=0)
        if not self.training:
            return Output(logits, attention)
        return Output(logits, attention, self.own_losses(batch, joint, of_text, of_image, see, read))

    def kept(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Whether each pair has a picture, and a text; in training some are dropped, never both."""
        see, read = present(batch)
        if self.training and (rate := self.options.modality_dropout):
            # One random number for both: with a rate below one half, no pair can lose picture and text.
            chance = torch.rand(len(see), 1, device=see.device)
            see = see * (1 - read * (chance < rate))
            read = read * (1 - see * (chance > 1 - rate))
        return see, read

    def vectors(
        self,
        batch: Batch,
        words: Tensor,
        mask: Tensor,
        see: Tensor,
        read: Tensor,
        attention: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Features of picture and text, `[B, n_of_image]`, `[B, n_of_text]`; zero if missing."""
        assert batch.regions is not None
        images, texts = [], []
        if self.options.whole:
            images.append(self.whole_image(batch.regions.mean(dim=(2, 3))))
            texts.append(self.whole_text(whole_text(batch, words, mask, reads_vector=self.reads_vector)))
        if self.n_lexicon:
            assert batch.lexicon is not None
            texts.append(self.strengths(batch.lexicon))
        if self.options.attention:
            f = self.project(batch.regions)  # [B, d, H, W]
            a_c = self.channel_attention(f)  # [B, d], Eq. 1
            f = f * a_c[:, :, None, None]  # [B, d, H, W]
            a_s = self.spatial_attention(f)  # [B, 1, H, W], Eq. 2
            v = regions_of(f * a_s)  # [B, M, d], Eq. 3
            t = torch.tanh(self.to_word(words)) * mask.unsqueeze(-1)  # [B, S, d]
            guide_v, guide_t = v.mean(dim=1) * see, masked_mean(t, mask) * read  # [B, d] each
            text, of_words = self.words_for_image(t, mask, guide_v)  # Eq. 4-6
            image, of_regions = self.regions_for_text(v, guide=guide_t)
            images.append(image)
            texts.append(text)
            h, w = batch.regions.shape[2:]
            attention |= {"channel": a_c, "spatial": a_s.squeeze(1), "words": of_words}
            attention["regions"] = of_regions.view(-1, h, w)  # [B, H, W]
        return torch.cat(images, dim=1) * see, torch.cat(texts, dim=1) * read

    def own_losses(
        self, batch: Batch, joint: Tensor, of_text: Tensor, of_image: Tensor, see: Tensor, read: Tensor
    ) -> Tensor:
        """Cross-entropy of the joint head, and of each modality's head for rows that have its label."""
        loss = joint.new_zeros(())
        if batch.target is not None:
            loss = loss + nn.functional.nll_loss(joint, batch.target)
        for logits, target, there in (
            (of_text, batch.text_target, read),
            (of_image, batch.image_target, see),
        ):
            if target is not None:
                known = (target >= 0) & (there.squeeze(1) > 0)
                # Unknown targets are clamped, as cross_entropy refuses -1, and then do not count.
                each = nn.functional.cross_entropy(logits, target.clamp(min=0), reduction="none")
                loss = loss + (each * known).sum() / known.sum().clamp(min=1)
        return loss
