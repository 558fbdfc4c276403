"""Pictures to square uint8 pixels for a backbone."""

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch.nn.functional import interpolate

from mvsent.curate.images import FORMATS, to_rgb
from mvsent.errors import DatasetError, InputError
from mvsent.shards.reader import Dataset

TRANSFORM_VERSION = 1
"""Raised whenever the same bytes would give other pixels, which invalidates the caches."""

BATCHES_AHEAD = 2

Pixels = npt.NDArray[np.uint8]


def decode_pixels(data: bytes, size: int) -> Pixels:
    """Decode a picture to RGB pixels [size, size, 3], squashed to a square.

    Nothing is cropped, so that attention maps cover the whole picture. A JPEG much larger than `size` is
    decoded at 1/2, 1/4 or 1/8 of its size, never below `size`; then it is resized bilinearly with
    antialiasing.

    Raises: InputError if the bytes are not a picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft("RGB", (size, size))
            return squashed(image, size)
    except Exception as error:  # Pillow's plugins raise exceptions of any kind on hostile bytes
        raise InputError(f"a picture cannot be decoded ({type(error).__name__}: {error})") from None


def squashed(image: Image.Image, size: int) -> Pixels:
    """Resize the whole picture to RGB pixels [size, size, 3], without cropping."""
    # A copy: torch warns of arrays that cannot be written to, such as Pillow's.
    rgb = np.array(to_rgb(image))
    # torch resizes channels-last bytes in a fraction of Pillow's time, with the same result (within 1).
    picture = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)  # [1, 3, H, W]
    square = interpolate(picture, size=(size, size), mode="bilinear", antialias=True)
    return square[0].permute(1, 2, 0).numpy()


def pixel_batches(
    dataset: Dataset, size: int, batch_size: int, workers: int | None = None, rows: slice | None = None
) -> Iterator[torch.Tensor]:
    """Decode the pictures of `rows` in order: uint8 [B, 3, size, size] in channels-last memory.

    `workers` threads (default: one per core) decode up to two batches ahead of the consumer.

    Raises: DatasetError if the dataset has no pictures, or if one cannot be decoded (naming its id).
    """
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="pixels")
    ahead: deque[_Batch] = deque()
    try:
        for records in dataset.batches(["id", "image"], batch_size, rows):
            ahead.append(_Batch(dataset, records, size, pool))
            if len(ahead) > BATCHES_AHEAD:
                yield ahead.popleft().wait()
        while ahead:
            yield ahead.popleft().wait()
    finally:
        pool.shutdown(cancel_futures=True)


class _Batch:
    """Pictures being decoded, each directly into its place in the batch."""

    def __init__(
        self, dataset: Dataset, records: pa.RecordBatch, size: int, pool: ThreadPoolExecutor
    ) -> None:
        self.pixels = np.empty((len(records), size, size, 3), dtype=np.uint8)
        self.ids: list[str] = records["id"].to_pylist()
        self.dataset = dataset
        pictures = pc.struct_field(records["image"], "bytes")
        if pictures.null_count:
            raise no_pictures(dataset)
        self.jobs: list[Future[None]] = [
            pool.submit(self._decode, i, picture) for i, picture in enumerate(pictures)
        ]

    def _decode(self, i: int, picture: pa.BinaryScalar) -> None:
        self.pixels[i] = decode_pixels(picture.as_py(), self.pixels.shape[1])

    def wait(self) -> torch.Tensor:
        for i, job in enumerate(self.jobs):
            try:
                job.result()
            except InputError as error:
                raise DatasetError(
                    f"{self.dataset.folder}: {self.ids[i]}: {error.what}",
                    f"Check the dataset: mvsent validate {self.dataset.folder}; or build it again",
                ) from None
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2)


def no_pictures(dataset: Dataset) -> DatasetError:
    """The error for a dataset without pictures."""
    listed = bool(dataset.manifest.settings.get("metadata_only"))
    way = f"Run mvsent fetch {dataset.folder}" if listed else "Build it again without --labels-only"
    return DatasetError(
        f"{dataset.folder}: has rows without pictures",
        f"{way}, or choose a model that reads no pictures (`mvsent models`)",
    )
