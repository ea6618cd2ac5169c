"""Measures what encryption costs, for whoever asks: `tunneld bench`.

`plan` says what is measured in which order, `spread`, `noise` and `results` what the figures are
worth, `compare`, `table`, `plots` and `page` show them (all pure). `traffic` sends and counts,
`sides` has two ends measure together; `crypto`, `local` and `hosts` are what is measured.
"""
