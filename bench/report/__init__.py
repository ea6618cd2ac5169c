"""Makes the tables and plots of docs/performance.md from raw figures; measures nothing.

`evaluation` works out medians and ratios, `tables` and `plot` show them, `document` puts them into
the page between its marks.
"""
