"""Train recorded runs again from their records, compare them bit by bit, and record the verdicts.

`verbs` carries out `nnexp rerun` and `nnexp bundle`. `subject` finds the configuration and the data of a
recorded run, `again` trains and records, `verdict` compares, `variation` reruns with other keys.
"""
