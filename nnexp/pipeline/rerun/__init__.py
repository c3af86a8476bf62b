"""Run again from the record, compare to the bit, give a verdict; and carry a record elsewhere."""
