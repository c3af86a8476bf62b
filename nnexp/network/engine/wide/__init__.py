"""Train one network at a time, with its neurons as lanes: a second arrangement of the same arithmetic.

Every sum has the same order as where runs are lanes, so the bits are the same, and which arrangement trains
is a matter of time only. The lanes of sums of products are eight neighbouring neurons (in dL/da, inputs);
those of the output layer are rows; activations and updates take 32 numbers as they lie in memory.
"""
