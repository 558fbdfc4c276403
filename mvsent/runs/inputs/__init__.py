"""What models read: a file for each kind of input, which reads it of a dataset as of pairs from anywhere.

`kind` says what a kind of input is, `setup` and `pairs` what it is made and read from, and `reader` reads all
that a model asks for.
"""
