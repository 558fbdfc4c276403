"""Where features and unpacked weights are kept between commands."""

import os
from pathlib import Path

import platformdirs


def default_cache_dir() -> Path:
    """The folder of cached features: `MVSENT_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("MVSENT_CACHE") or platformdirs.user_cache_dir("mvsent"))
