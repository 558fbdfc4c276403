"""The web page and the JSON endpoint behind `mvsent serve`; the only package that needs the extra `serve`."""
