"""The report of a sweep, one HTML file, and its description in Markdown: both from the record alone."""
