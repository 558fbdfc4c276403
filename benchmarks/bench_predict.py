"""The cost of reading: the bare model on ready tensors ÷ `predict` over the same 1000 pairs in their files.

The bare model is the backbone and DMLANet's network on pixels and word numbers that are in memory. `predict`
reads a CSV table, opens and decodes 1000 pictures, numbers the words and writes a CSV table. All weights are
random.
"""

import csv
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from mvsent.config import TrainSettings
from mvsent.inference import model as models
from mvsent.inference.model import Model
from mvsent.inference.pair_tables import open_table
from mvsent.inference.predict import judge, write_answers
from mvsent.models.batch import Batch
from mvsent.runs.train import train
from mvsent.shards.writer import DatasetWriter
from tests.drawing import draw_pairs, draw_picture

N_PAIRS, ROUNDS = 1000, 3
PICTURE = (500, 375)  # as Flickr's and Twitter's medium sizes


def rows() -> list[tuple[str, float, float, float, str]]:
    """`(figure, seconds of the bare model, seconds of predict, ratio, goal)`, medians of alternating runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = draw_table(folder)
        model = models.load(make_run(folder), 0, "cpu")
        pixels, words, mask = ready(model, table)
        bare, whole = [], []
        for _ in range(ROUNDS):
            bare.append(bare_model(model, pixels, words, mask))
            whole.append(predict(model, table, folder / "answers.csv"))
    bare_s, whole_s = median(bare), median(whole)
    return [("bare model ÷ predict, 1000 pairs", bare_s, whole_s, bare_s / whole_s, "≥ 0.8")]


def make_run(folder: Path) -> Path:
    """A run of DMLANet that was trained a little."""
    dataset = folder / "dataset"
    with DatasetWriter(dataset, "drawn", settings={}, shard_size=100) as writer:
        writer.write(draw_pairs(60))
        writer.finish(60)
    settings = TrainSettings(dataset=str(dataset), weights="random", words="random", epochs=1, folds=[0])
    return train(settings, out=folder / "run", quiet=True).run


def draw_table(folder: Path) -> Path:
    """A CSV table of 1000 pairs beside their pictures."""
    path = folder / "pairs.csv"
    texts = draw_pairs(60, images=False)["text"].to_pylist()
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text"])
        for row in range(N_PAIRS):
            (folder / f"{row}.jpg").write_bytes(draw_picture(row % 3, row, PICTURE))
            table.writerow([f"{row}.jpg", f"{texts[row % 60]} {texts[row * 7 % 60]}"])
    return path


def ready(model: Model, table: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, word numbers and mask of every pair."""
    found = list(open_table(table).rows)
    assert model.reader.backbone is not None
    side = model.reader.backbone.size
    pictures = [model.decode(row.image).pixels or {} for row in found]
    pixels = np.stack([each[side] for each in pictures])
    numbers = model.vocabulary().encode([row.text or "" for row in found], model.run.resolved.max_words)
    words = torch.from_numpy(numbers)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), words, words != 0


@torch.inference_mode()
def bare_model(model: Model, pixels: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> float:
    """Seconds for all pairs, in batches of the size that `predict` has."""
    assert model.reader.backbone is not None
    backbone = model.reader.setup.fused(model.reader.backbone)
    network = model.network()
    started = perf_counter()
    for start in range(0, N_PAIRS, models.BATCH_SIZE):
        rows = slice(start, start + models.BATCH_SIZE)
        batch = Batch(regions=backbone(pixels[rows]), words=words[rows], word_mask=mask[rows])
        network(batch).logits.softmax(dim=1)
    return perf_counter() - started


def predict(model: Model, table: Path, out: Path) -> float:
    """Seconds for all pairs, from their files to a file of answers; loading the model is not counted."""
    started = perf_counter()
    found = open_table(table)
    with out.open("wb") as file:
        write_answers(judge(model, found, eager=False), found, "csv", file, out, quiet=True)
    return perf_counter() - started


if __name__ == "__main__":
    for row in rows():
        print(row)
