"""Carry out populations: sweeps whose networks are rows of a table instead of runs.

A grid is composed, validated, keyed, trained and recorded as columns, a part of the table at a time, so that
no network needs an object of its own and the memory does not grow with their number.
"""
