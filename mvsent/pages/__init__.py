"""Pages written for people about a dataset or a run."""
