"""Pictures: what is kept, what is dropped and why, and how they look in RGB. Every picture is drawn here."""

import hashlib
import io
import struct
import zlib

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvsent.curate import images
from mvsent.curate.images import ImageFacts, check_image, image_columns, phash, to_rgb
from mvsent.errors import InputError
from mvsent.reasons import Reason, Rejection

# As `mvsent.curate.images` does outside of pytest, which sets its own filters for every test.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::UserWarning:PIL\.", "ignore::PIL.Image.DecompressionBombWarning"
)

LIMITS = {"max_pixels": 10_000_000, "max_bytes": 1_000_000}


def scene(width=160, height=120, seed=0):
    """An RGB picture with shapes of several sizes, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_that_declares(width, height):
    """A PNG of a few bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def reason(data, **limits):
    found = check_image(data, **(LIMITS | limits))
    assert isinstance(found, Rejection), found
    assert "\n" not in found.detail
    return found.reason


def kept(data):
    found = check_image(data, **LIMITS)
    assert isinstance(found, ImageFacts), found
    return found


def test_a_good_jpeg_is_kept_with_its_facts():
    data = encoded(scene(), "JPEG")
    facts = kept(data)
    assert (facts.width, facts.height, facts.format) == (160, 120, "JPEG")
    assert facts.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_usual_format_is_kept(format):
    assert kept(encoded(scene(), format)).format == format


def test_zero_bytes_are_a_corrupt_image():
    assert reason(b"") is Reason.IMAGE_CORRUPT


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_jpeg_is_corrupt(share):
    data = encoded(scene(640, 480), "JPEG")
    assert reason(data[: int(len(data) * share)]) is Reason.IMAGE_CORRUPT


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_picture_of_any_format_is_corrupt(format):
    data = encoded(scene(), format)
    assert reason(data[: len(data) * 2 // 3]) is Reason.IMAGE_CORRUPT


def test_a_progressive_jpeg_is_read_to_its_end():
    data = encoded(scene(640, 480), "JPEG", progressive=True)
    assert kept(data).width == 640
    assert reason(data[: len(data) // 2]) is Reason.IMAGE_CORRUPT


def test_html_in_disguise_is_not_an_image():
    assert reason(b"<!DOCTYPE html><title>404</title>") is Reason.IMAGE_NOT_AN_IMAGE


def test_formats_that_start_programs_or_scripts_are_not_images():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") is Reason.IMAGE_NOT_AN_IMAGE
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is Reason.IMAGE_NOT_AN_IMAGE


@pytest.mark.parametrize("side", [8_000, 12_000, 30_000, 2**31 - 1])
def test_a_declared_giant_is_too_large_and_never_decoded(side):
    assert reason(png_that_declares(side, side)) is Reason.IMAGE_TOO_LARGE


def test_a_giant_within_the_users_limit_but_without_its_pixels_is_corrupt():
    assert reason(png_that_declares(5000, 5000), max_pixels=25_000_000) is Reason.IMAGE_CORRUPT


def test_limits_are_inclusive():
    data = encoded(scene(), "PNG")
    assert isinstance(check_image(data, max_pixels=160 * 120, max_bytes=len(data), min_side=120), ImageFacts)
    assert reason(data, max_pixels=160 * 120 - 1) is Reason.IMAGE_TOO_LARGE
    assert reason(data, max_bytes=len(data) - 1) is Reason.IMAGE_TOO_LARGE
    assert reason(data, min_side=121) is Reason.IMAGE_TOO_SMALL


def test_a_cmyk_jpeg_is_kept_and_red_stays_red():
    data = encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95)
    kept(data)
    red, green, blue = to_rgb(Image.open(io.BytesIO(data))).getpixel((30, 30))
    assert red > 200 > 60 > max(green, blue)


def test_a_16_bit_png_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(ramp), "PNG")
    kept(data)
    grey = np.asarray(to_rgb(Image.open(io.BytesIO(data))))[..., 0].ravel()
    assert grey.tolist() == list(range(256))


def test_floats_are_scaled_to_their_own_range():
    image = Image.fromarray(np.array([[0.0, 500.0, 1000.0]], dtype=np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.filterwarnings("error")
def test_floats_that_are_no_numbers_are_black():
    image = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 10.0]], dtype=np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 0, 0, 255]


def test_a_palette_becomes_its_colours():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    data = encoded(image, "PNG")
    assert to_rgb(Image.open(io.BytesIO(data))).getpixel((4, 4)) == (10, 200, 30)


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    data = encoded(image, "PNG", transparency=1)
    assert to_rgb(Image.open(io.BytesIO(data))).getpixel((4, 4)) == (255, 255, 255)


def test_half_transparency_is_mixed_with_white():
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_an_animated_gif_is_its_first_frame():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    assert to_rgb(image).getpixel((5, 5))[0] > 200
    assert kept(data).height == 30


def test_exif_orientation_turns_the_picture_but_not_its_size():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    data = encoded(image, "JPEG", exif=exif)
    facts = kept(data)
    upright = to_rgb(Image.open(io.BytesIO(data)))
    assert (facts.width, facts.height) == (40, 20)
    assert upright.size == (20, 40)
    assert upright.getpixel((18, 20))[0] > 200 > upright.getpixel((2, 20))[0]


def test_broken_exif_does_not_cost_the_picture():
    data = encoded(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert kept(data).width == 160


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_phash_has_the_bits_of_imagehash(mode):
    image = scene().convert(mode)
    assert f"{phash(image):016x}" == str(imagehash.phash(image))


def test_the_hash_survives_scaling_and_recompression():
    original = kept(encoded(scene(800, 600), "PNG")).phash
    copy = kept(encoded(scene(800, 600).resize((300, 225)), "JPEG", quality=60)).phash
    assert (original ^ copy).bit_count() <= 6
    assert (original ^ kept(encoded(scene(800, 600, seed=1), "PNG")).phash).bit_count() > 12


def test_a_flat_picture_has_no_hash():
    assert kept(encoded(Image.new("RGB", (64, 64), (12, 34, 56)), "JPEG")).phash is None


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(images, "_LARGE", 100 * 100)
    held = []
    monkeypatch.setattr(
        images, "_flat", lambda image: held.append(images._one_large_picture.locked()) or image
    )
    kept(encoded(scene(100, 100), "PNG"))
    kept(encoded(scene(101, 100), "PNG"))
    assert held == [False, True]
    assert not images._one_large_picture.locked()


def test_the_bytes_fill_every_column_of_a_picture():
    pictures = [encoded(scene(48, 36), "JPEG"), encoded(Image.new("RGB", (20, 10), "white"), "PNG")]
    columns = image_columns(pictures)
    assert [image["bytes"] for image in columns["image"]] == pictures
    assert (columns["width"], columns["height"]) == ([48, 20], [36, 10])
    assert columns["sha256"] == [hashlib.sha256(data).hexdigest() for data in pictures]
    assert columns["phash"] == [check_image(pictures[0], **LIMITS).phash, None]  # the second one is flat


def test_a_picture_that_cannot_be_used_is_named_by_its_place():
    with pytest.raises(InputError, match="picture 1: image-not-an-image"):
        image_columns([encoded(scene(), "PNG"), b"text"])


GOOD = {format: encoded(scene(48, 36), format) for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF")}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damaged_pictures_are_judged_never_raised(format, position, noise):
    data = bytearray(GOOD[format])
    position %= len(data)
    data[position : position + len(noise)] = noise
    assert isinstance(check_image(bytes(data), **LIMITS), ImageFacts | Rejection)


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_never_raised(data):
    assert isinstance(check_image(data, **LIMITS), ImageFacts | Rejection)
