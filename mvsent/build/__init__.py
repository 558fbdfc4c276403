"""Search, fetch and assemble: from a source to a dataset."""
