"""A transfer by TCP, and whether what arrives is what was sent."""

from __future__ import annotations

import sys

from testbed.netns import Namespace

RECEIVE = """
import hashlib, socket
with socket.create_server(("::", 5000), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("listening", flush=True)
    peer, _ = server.accept()
    digest, count = hashlib.sha256(), 0
    while data := peer.recv(1 << 20):
        digest.update(data)
        count += len(data)
    print(count, digest.hexdigest(), flush=True)
"""

SEND = """
import hashlib, os, socket, sys
digest, left = hashlib.sha256(), int(sys.argv[2])
with socket.create_connection((sys.argv[1], 5000)) as peer:
    if extension := bytes.fromhex(sys.argv[3]):
        peer.setsockopt(socket.IPPROTO_IPV6, 59, extension)  # IPV6_DSTOPTS
    while left:
        # Odd sizes, so that segments end anywhere.
        data = os.urandom(min(left, 999_983))
        digest.update(data)
        peer.sendall(data)
        left -= len(data)
print(digest.hexdigest())
"""


def transfer(
    source: Namespace,
    destination: Namespace,
    address: str,
    size_bytes: int,
    destination_options: bytes = b"",
) -> None:
    """Returns once all of it is there, byte for byte.

    `destination_options`: an extension header of all packets with data, next header 0.
    """
    receiver = destination.start(sys.executable, "-c", RECEIVE)
    receiver.wait_for_output("listening")
    argv = (sys.executable, "-c", SEND, address, str(size_bytes), destination_options.hex())
    digest = source.run(*argv, timeout_s=200).strip()
    receiver.wait_for_output(f"{size_bytes} {digest}", timeout_s=60)
