"""Folders of tiny transformers with random weights, in Hugging Face's layout."""

import json
from pathlib import Path

import pytest

WORDS = ["sad", "broken", "awful", "lost", "crying", "street", "monday", "report", "table", "update", "happy"]
WORDS += ["wonderful", "sunny", "love", "smiling", "number", "a", "the", "so", "good", "day", "."]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(folder: Path, seed: int = 0) -> Path:
    """A BERT of two layers and 16 features that knows the words of drawn texts."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder.mkdir(parents=True)
    vocabulary = [*MARKS, *WORDS, "!", "?", "##s", "##1"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    )
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def write_clip(folder: Path, preprocessor: dict[str, object] | None = None, seed: int = 0) -> Path:
    """A CLIP of two layers a half: 12 features a patch of 8×8 pixels in 32×32, 16 features a word."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder.mkdir(parents=True)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    letters = sorted({letter for word in WORDS for letter in word} | set("!?0123456789:/@#"))
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizerFast(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        vocab_file=str(folder / "vocab.json"),
        merges_file=str(folder / "merges.txt"),
    ).save_pretrained(folder)
    config = transformers.CLIPConfig(
        text_config={
            **layers,
            "hidden_size": 16,
            "vocab_size": len(pieces),
            "max_position_embeddings": 20,
            "bos_token_id": numbers["<|startoftext|>"],
            "eos_token_id": numbers["<|endoftext|>"],
            "pad_token_id": numbers["<|endoftext|>"],
        },
        vision_config={**layers, "hidden_size": 12, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    transformers.CLIPModel(config).save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
