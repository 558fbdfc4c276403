"""Build image+text sentiment datasets, and train and evaluate models on them."""

__version__ = "0.1.0"
