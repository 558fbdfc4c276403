"""Pictures to square pixels."""

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvsent.errors import DatasetError, InputError
from mvsent.features.pixels import decode_pixels, pixel_batches
from mvsent.shards.reader import Dataset
from tests.drawing import draw_pairs, draw_picture


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def quartered(width: int, height: int) -> Image.Image:
    """Red, green over blue, white."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.NEAREST)


def smooth(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(400, 100), (100, 400), (64, 64), (16, 16)])
def test_the_whole_picture_is_squashed_to_the_square(format: str, size: tuple[int, int]) -> None:
    pixels = decode_pixels(encoded(quartered(*size), format), 64)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    corners = pixels[[[8, 8], [55, 55]], [[8, 55], [8, 55]]].astype(int)
    assert np.abs(corners - np.asarray(quartered(2, 2)).astype(int)).max() < 12


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_any_kind_of_picture_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (40, 30), 255)
    image = (
        Image.fromarray(np.full((30, 40), 65535, np.uint16))
        if mode == "I;16"
        else grey.convert("RGB").convert(mode)
    )
    assert (decode_pixels(encoded(image, "TIFF"), 32) == 255).all()


def test_a_transparent_picture_lies_on_white() -> None:
    assert (decode_pixels(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), 8) == 255).all()


def test_a_picture_is_upright_before_it_is_squashed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    lying = quartered(320, 160).transpose(Image.Transpose.ROTATE_90)
    pixels = decode_pixels(encoded(lying, "JPEG", exif=exif), 32)
    upright = decode_pixels(encoded(quartered(320, 160), "JPEG"), 32)
    assert np.abs(pixels.astype(int) - upright.astype(int)).mean() < 2


@pytest.mark.parametrize("size", [(300, 200), (1000, 700), (3000, 2500)])
def test_a_jpeg_decoded_at_a_fraction_looks_like_the_full_decode(size: tuple[int, int]) -> None:
    data = encoded(smooth(*size), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        full = image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(decode_pixels(data, 64).astype(int) - np.asarray(full).astype(int)).mean() < 2


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", encoded(smooth(90, 90), "JPEG")[:800]])
def test_bytes_that_are_no_whole_picture_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="a picture cannot be decoded"):
        decode_pixels(data, 32)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 2000))
def test_damaged_bytes_give_pixels_or_one_kind_of_error(damage: bytes, position: int) -> None:
    data = bytearray(encoded(smooth(90, 60), "JPEG"))
    data[position : position + len(damage)] = damage
    with suppress(InputError):
        assert decode_pixels(bytes(data), 16).shape == (16, 16, 3)


def test_batches_hold_every_picture_in_row_order(small_dataset: Path, sixty_pairs: pa.Table) -> None:
    batches = list(pixel_batches(Dataset.open(small_dataset), 32, batch_size=7, workers=3))
    assert [len(batch) for batch in batches] == [7] * 8 + [4]
    assert batches[0].dtype == torch.uint8
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    for pixels, picture in zip(torch.cat(batches), sixty_pairs["image"].to_pylist(), strict=True):
        assert (pixels.permute(1, 2, 0).numpy() == decode_pixels(picture["bytes"], 32)).all()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_slice_of_rows_gives_those_rows_alone(small_dataset: Path, workers: int) -> None:
    dataset = Dataset.open(small_dataset)
    whole = torch.cat(list(pixel_batches(dataset, 16, batch_size=60)))
    part = torch.cat(list(pixel_batches(dataset, 16, 5, workers, slice(20, 57))))
    assert torch.equal(part, whole[20:57])


def test_a_consumer_may_stop_early(small_dataset: Path) -> None:
    before = set(threading.enumerate())  # of other tests
    batches = pixel_batches(Dataset.open(small_dataset), 16, batch_size=2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread not in before]


def test_a_broken_picture_is_named_by_its_id(make_dataset: Callable[..., Path]) -> None:
    pairs = draw_pairs(3)
    images = [
        {"bytes": draw_picture(0, 1)[:300], "path": "x.jpg"} if i == 1 else row
        for i, row in enumerate(pairs["image"].to_pylist())
    ]
    position = pairs.schema.get_field_index("image")
    folder = make_dataset(
        pairs.set_column(position, pairs.schema.field("image"), pa.array(images, pairs["image"].type))
    )
    with pytest.raises(DatasetError, match=r"drawn: drawn:1: a picture cannot be decoded.*mvsent validate"):
        list(pixel_batches(Dataset.open(folder), 16, batch_size=2))


def test_a_dataset_without_pictures_says_so(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(draw_pairs(3, images=False))
    with pytest.raises(DatasetError, match=r"rows without pictures.*--labels-only"):
        list(pixel_batches(Dataset.open(folder), 16, batch_size=2))


def test_fine_detail_is_averaged_and_not_picked_out() -> None:
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    assert (np.abs(decode_pixels(encoded(Image.fromarray(stripes)), 16).astype(int) - 127) < 12).all()
