"""Train and evaluate: a run folder from the first epoch to its metrics."""
