"""One file per job a user asks for, each readable as a recipe."""
