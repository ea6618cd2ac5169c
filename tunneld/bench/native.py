"""What the native module measures with. No logic.

`Aead` seals and opens texts of one size for about so long; both return how many, and nanoseconds.
`aead_choices` has the `providers` and `ciphers` built in, and what `auto` takes of either.
Traffic goes over sockets that Python connected, without the interpreter's lock. `load_send` and
`load_receive` move datagrams of a token, `load_echo` and `load_round_trips` ask and answer, the
others fill and empty TCP streams. Every call ends by itself; OSError: the kernel refuses, or the
other end went away.
"""

from __future__ import annotations

from tunneld._native import (
    Aead,
    aead_choices,
    load_echo,
    load_receive,
    load_receive_streams,
    load_round_trips,
    load_send,
    load_send_streams,
)

__all__ = [
    "Aead",
    "aead_choices",
    "load_echo",
    "load_receive",
    "load_receive_streams",
    "load_round_trips",
    "load_send",
    "load_send_streams",
]
