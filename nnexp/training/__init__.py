"""Train configured runs on their data and yield the trained networks, in this process or in others.

Nothing here knows a store, logs or prints.
"""
