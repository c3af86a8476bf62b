"""Compute with fully connected networks: outputs, gradients, initial weights.

`reference` is the articles' mathematics in plain NumPy; `engine` is the same, compiled for many networks at
once, with the same bits on every machine. Nothing here knows a store or a configuration.
"""
