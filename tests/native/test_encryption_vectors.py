"""The test vectors of docs/encryption.md are what other implementations make of the page.

That ours makes the same is a test of native/handshake (through exchange.json) and of native/esp.
"""

from __future__ import annotations

import pytest

from tests.native.encryption_vectors import as_text, of_page, vectors


def test_the_vectors_of_the_page_are_those_of_other_implementations() -> None:
    with pytest.warns(UserWarning, match="ephemeral keypairs is already set"):
        made = as_text(vectors())
    assert of_page() == made
