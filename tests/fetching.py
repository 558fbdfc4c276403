"""What the tests of fetching share: a picture, short waits, and the outcome of one request."""

import io

import numpy as np
from PIL import Image

from mvsent.fetch import Dropped, FetchPolicy, ImageRequest, fetch_images


def picture(seed=0, width=160, height=120):
    """A JPEG of a few kB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


PICTURE = picture()


def policy(server, **changes):
    """Short waits, and nothing allowed but `server`."""
    quick = {"timeout_s": 10.0, "retries": 1, "backoff_s": 0.001, "max_wait_s": 0.01, "workers": 1}
    return FetchPolicy(**({"allowed": frozenset({server.place})} | quick | changes))


def outcome(server, url, **changes):
    """What becomes of one picture."""
    (found,) = fetch_images([ImageRequest("a", url)], policy(server, **changes))
    assert found.id == "a"
    return found


def reason(server, url, **changes):
    found = outcome(server, url, **changes)
    assert isinstance(found, Dropped), found
    assert found.detail
    assert "\n" not in found.detail
    return found.reason
