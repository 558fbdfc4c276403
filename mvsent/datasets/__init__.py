"""Work on finished datasets: split, subset, merge, reshard, validate, stats, export."""
