"""Summarise, tabulate and draw recorded runs, and report on sweeps: DataFrames in; tables and figures out.

Nothing here trains, records or prints. Only `report` opens a store, and only to read it.
"""
