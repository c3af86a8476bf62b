"""Turn keys into a frozen, validated `RunConfig` and a `Request`, before anything heavy is imported.

Every value is checked here, once. A wrong one raises `RequestError`, which names the key, the value and what
is allowed. Hydra is imported by `compose` alone; MLflow, matplotlib and pandas are never imported.
"""
