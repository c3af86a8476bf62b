"""Turn a table into arrays: read and check it, choose its columns, centre and split its rows.

Whatever is wrong with a table raises `RequestError` with the file, the column and the row.
"""
