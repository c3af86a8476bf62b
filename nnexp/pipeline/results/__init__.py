"""Define what the Python API returns: a recorded run, sweep or rerun, read from the store on demand."""
