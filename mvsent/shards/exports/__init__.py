"""A dataset in the formats of other tools, one file each: `write(rows, folder, options)`."""
