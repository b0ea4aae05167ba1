"""The report: one HTML page about one run or several, which needs nothing but itself.

`page` puts it together; each kind of figure has a module that turns points into charts (`chart`), which plotly draws in
the reader's browser. Every figure is a table, too.
"""
