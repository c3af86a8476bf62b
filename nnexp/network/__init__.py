"""The mathematics: a fully connected network, its gradients and its initial weights.

`reference` is the articles' own, plain NumPy; `engine` is the same compiled for many networks at once, with
the same bits on every machine. Nothing here knows a file, a store or a configuration.
"""
