"""Write a sweep's report (one HTML file) and its description (Markdown), both from the record alone.

`findings` collects the results, `pictures` draws the figures, `page` and `note` render the report and the
description, and `write` carries out `nnexp report`.
"""
