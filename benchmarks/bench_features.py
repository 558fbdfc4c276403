"""The speed of decoding pictures and of computing features: `python -m benchmarks.bench_features`."""

import hashlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mvsent.features.backbone import fused
from mvsent.features.backbones import load_backbone
from mvsent.features.cache import BATCH_SIZE, cached_maps
from mvsent.features.pixels import pixel_batches
from mvsent.pairs import pair_table
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter

Row = tuple[str, float, float, float, str]  # what, our seconds, the other's seconds, ratio, goal

N_PICTURES = 384
SIDE = 299  # pixels, of Inception's input
WORKERS = 2
ROUNDS = 5
TOLERANCE = 2.0  # grey levels of 255 that two decoders' pixels may differ by, on average
DATALOADER: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True}


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [draw_photograph(seed) for seed in range(N_PICTURES)]
        dataset = write_shards(Path(folder) / "shards", pictures)
        return [*pixel_rows(dataset, pictures, Path(folder)), extraction_row(dataset, Path(folder))]


def pixel_rows(dataset: Dataset, pictures: list[bytes], folder: Path) -> list[Row]:
    """Shards → uint8 batches, against Hugging Face datasets and webdataset with as many workers."""
    runs: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "ours": lambda: pixel_batches(dataset, SIDE, BATCH_SIZE, WORKERS),
        "Hugging Face datasets": partial(iter, hugging_face_batches(dataset, folder)),
        "webdataset": partial(iter, webdataset_batches(pictures, folder)),
    }
    assert_same_pixels({name: torch.cat(list(run())) for name, run in runs.items()})
    seconds = alternate({name: partial(exhaust, run) for name, run in runs.items()})
    return [
        (
            f"shards → {SIDE}×{SIDE} batches, {other} ÷ ours",
            seconds["ours"],
            seconds[other],
            seconds[other] / seconds["ours"],
            "≥ 2",
        )
        for other in ("Hugging Face datasets", "webdataset")
    ]


def extraction_row(dataset: Dataset, folder: Path) -> Row:
    """Shards → cached maps, against the same backbone on pixels that lie ready in memory."""
    backbone = load_backbone("efficientnet_lite0")
    ready = list(pixel_batches(dataset, backbone.size, BATCH_SIZE, WORKERS))
    network = fused(backbone)

    def bare() -> None:
        with torch.inference_mode():
            for pixels in ready:
                network(pixels)

    def extract() -> None:
        # An empty cache in every round; a second round would only map the file of the first.
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            cached_maps(dataset, backbone, cache_dir=Path(cache), workers=WORKERS, quiet=True)

    seconds = alternate({"ours": extract, "bare": bare})
    return (
        f"shards → features ÷ efficientnet_lite0 alone ({len(dataset) / seconds['bare']:.0f} pictures/s)",
        seconds["ours"],
        seconds["bare"],
        seconds["bare"] / seconds["ours"],
        "≥ 0.9",
    )


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each of `runs`, which take turns so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def exhaust(run: Callable[[], Iterator[torch.Tensor]]) -> None:
    for _ in run():
        pass


def assert_same_pixels(found: Mapping[str, torch.Tensor]) -> None:
    ours = found["ours"].int()
    for name, pixels in found.items():
        difference = (pixels.int() - ours).abs().float().mean(dim=(1, 2, 3))
        assert difference.max() < TOLERANCE, f"{name}: {difference.max():.2f} grey levels from ours"


def squash(image: Image.Image) -> torch.Tensor:
    """Resize as a user of the other libraries would: uint8 [3, side, side]."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def hugging_face_batches(dataset: Dataset, folder: Path) -> torch.utils.data.DataLoader[torch.Tensor]:
    import datasets

    files = [str(path) for path in dataset.shard_paths]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "hf"))
    loaded = loaded.select_columns(["image"]).with_transform(_squash_all)
    return torch.utils.data.DataLoader(loaded, batch_size=BATCH_SIZE, collate_fn=_stack, **DATALOADER)


def _squash_all(batch: dict[str, list[Image.Image]]) -> dict[str, list[torch.Tensor]]:
    return {"pixels": [squash(image) for image in batch["image"]]}


def _stack(samples: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([sample["pixels"] for sample in samples])


def webdataset_batches(pictures: list[bytes], folder: Path) -> torch.utils.data.DataLoader[torch.Tensor]:
    import webdataset as wds

    # One tar for each worker, its pictures dealt so that the batches come in the order of ours.
    tars = [folder / f"pictures-{worker}.tar" for worker in range(WORKERS)]
    for worker, tar in enumerate(tars):
        with wds.TarWriter(str(tar)) as writer:
            for first in range(worker * BATCH_SIZE, len(pictures), WORKERS * BATCH_SIZE):
                for i, data in enumerate(pictures[first : first + BATCH_SIZE], start=first):
                    writer.write({"__key__": f"{i:06d}", "jpg": data})
    stream = wds.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    stream = (
        stream.decode("pil").to_tuple("jpg").map_tuple(squash).batched(BATCH_SIZE, collation_fn=_stack_tuples)
    )
    return torch.utils.data.DataLoader(stream, batch_size=None, **DATALOADER)


def _stack_tuples(samples: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([pixels for (pixels,) in samples])


def draw_photograph(seed: int, width: int = 1024, height: int = 768) -> bytes:
    """A JPEG of more than 100 kB with a photograph's mix: slow gradients, texture and sensor noise."""
    rng = np.random.default_rng(seed)
    size = (width, height)
    slow, texture = (
        Image.fromarray(rng.integers(0, 256, (height // step, width // step, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        for step in (192, 16)
    )
    noise = Image.fromarray(np.clip(rng.normal(128, 14, (height, width)), 0, 255).astype(np.uint8)).convert(
        "RGB"
    )
    image = Image.blend(Image.blend(slow, texture, 0.25), noise, 0.2)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write_shards(
    folder: Path, pictures: list[bytes], texts: list[str] | None = None, labels: list[int] | None = None
) -> Dataset:
    """A dataset of the pictures; without `texts` and `labels`, with one word and every label in turn."""
    columns = {
        "id": [f"drawn:{i}" for i in range(len(pictures))],
        "image": [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(pictures)],
        "text": texts or ["drawn"] * len(pictures),
        "label": labels or [i % 3 for i in range(len(pictures))],
        "sha256": [hashlib.sha256(data).hexdigest() for data in pictures],
    }
    with DatasetWriter(folder, "drawn", settings={}, shard_size=1000) as writer:
        writer.write(pair_table(columns))
        writer.finish(len(pictures))
    return Dataset.open(folder)


def main() -> None:
    """Print the table."""
    for what, ours, other, ratio, goal in rows():
        print(f"{what:60s} {ours:8.2f} s {other:8.2f} s   ratio {ratio:5.2f}   goal {goal}")


if __name__ == "__main__":
    main()
