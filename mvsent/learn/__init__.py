"""Batches, the training loop, metrics."""
