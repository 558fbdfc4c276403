"""Work on finished datasets: split, merge, reshard, validate, stats, export."""
