"""Two hosts over the network they have: `tunneld bench serve` on one, `run` on the other.

`challenge` is how they know each other (pure), `channel` what they tell each other, `gate` lets one
run in, `serve` and `remote` are the two ends.
"""
