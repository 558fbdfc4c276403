"""The networks: one file per paper; they share attention.py and encoders.py and never import one another."""
