"""One network at a time, its rows and neurons side by side: the same arithmetic as that of many runs.

Lanes are eight neighbouring neurons in `products`, 32 numbers in a row in hidden activations and
updates, and 32 rows in the output layer. Each sum has the order that it has where lanes are runs, so
the bits are the same; which of the two trains is a matter of time only, and `choice` decides it.
"""
