"""Where pairs come from: parsing is pure, fetching is thin."""
