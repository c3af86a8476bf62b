"""Write a sweep's report (one HTML file) and its description (Markdown), both from the record alone."""
