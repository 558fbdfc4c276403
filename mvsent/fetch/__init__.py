"""Fetch pictures from untrusted hosts: concurrently, checked, in order, within limits."""

from mvsent.fetch.downloads import fetch_images
from mvsent.fetch.outage import fetch_all
from mvsent.fetch.policy import Dropped, Fetched, FetchPolicy, HostLimits, ImageRequest

__all__ = ["Dropped", "FetchPolicy", "Fetched", "HostLimits", "ImageRequest", "fetch_all", "fetch_images"]
