"""Whom this host trusts, and what may travel in plain: identities, keys at rest, local policy.

Beside the path of a lease: `trust` feeds `peer` and `backend`. `trust.files` and
`trust.secrets` read files, all others are pure. Nothing here comes from the store but what its name
says was announced there.
"""
