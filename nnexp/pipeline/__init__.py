"""Wire the other packages together: plan, train and record; run again and compare; check, bundle and export.

Only this package knows both training and the store. It prints nothing: it logs to `nnexp`, returns values,
and raises RequestError before anything is recorded if a request is wrong.
"""
