"""The exchange that native/handshake is checked against is what a second implementation makes."""

from __future__ import annotations

import pytest

from tests.native.handshake_exchange import EXCHANGE, as_text


def test_the_kept_exchange_is_what_noiseprotocol_makes_of_the_same_keys() -> None:
    with pytest.warns(UserWarning, match="ephemeral keypairs is already set"):
        made = as_text()
    assert EXCHANGE.read_text() == made
