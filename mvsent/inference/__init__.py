"""Answers of a trained run for new pairs, and its export to other programs."""
