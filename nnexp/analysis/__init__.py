"""Say what recorded runs show: DataFrames in; summaries, tables, figures and reports out."""
