"""Define the verbs of the command line, and print what they return. Only this package prints.

Slow imports wait until a verb needs them.
"""
