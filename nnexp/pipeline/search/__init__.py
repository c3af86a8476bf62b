"""Search with Optuna's samplers and pruners.

`study` asks Optuna, `loop` trains and records trials batch by batch, `confirm` runs the best on fresh seeds.

MLflow has the only record: what is asked next follows from the recorded trials alone.
"""
