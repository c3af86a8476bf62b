def rows(n):
    return []
def stop():
    pass
