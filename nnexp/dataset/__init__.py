"""Turn a table into arrays: read and check it, choose its columns, centre and split its rows.

Any error in a table raises `RequestError`, which names the file, the column and the row.
"""
