"""Inputs of models: a file for each kind, which reads it from a dataset as well as from pairs in memory.

`kind` says what a kind of input is, `setup` and `pairs` what it is made and read from, and `reader` reads all
that a model asks for.
"""
