"""Pure decisions about a pair: keep it, or drop it, because."""
