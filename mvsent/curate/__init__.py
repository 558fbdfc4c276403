"""Pure decisions about pairs: keep, or drop with a reason; and labels, duplicates, quality."""
