"""Inputs of models: a file for each kind, which reads it from a dataset as well as from pairs in memory.

`kind` defines a kind of input, `setup` the settings and networks that inputs share, and `pair_sources` the
pairs that they are read from. `input_reader` reads all inputs of a model.
"""
