"""The verbs of the command line; only this package prints.

Nothing heavy is imported until a verb needs it.
"""
