"""`serve` and `run` over loopback: figures of both directions, and what a stranger can try."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bench.hosts import TIMEOUT_S, TUNNELD, Serving, environment, run, serving
from tunneld.bench.hosts.challenge import (
    ANSWER_BYTES,
    HELLO_BYTES,
    MAGIC,
    PROOF_BYTES,
    VERDICT_BYTES,
    VERSION,
    Secret,
    hello,
)
from tunneld.bench.hosts.gate import MOST_PENDING, Gate
from tunneld.bench.hosts.remote import Place, admitted
from tunneld.bench.hosts.serve import MOST_ORDERS
from tunneld.bench.traffic import Order
from tunneld.errors import BenchError

HOST = "127.0.0.1"
LISTEN = ("--listen", HOST, "--port", "0")
SHORT = ("--rounds", "1", "--seconds", "0.1", "--sizes", "1024", "--streams", "2")
OTHER_SECRET = Secret(bytes(16)).text


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=TIMEOUT_S)


def whole(stream: socket.socket, size: int) -> bytes:
    said = b""
    while len(said) < size and (more := stream.recv(size - len(said))):
        said += more
    return said


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error, past the progress."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("tunneld: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def still_serves(one: Serving) -> None:
    """Lets the true run in, after all that was tried."""
    done = run(HOST, one.port, one.secret, "--figures", "idle", *SHORT)
    assert done.returncode == 0, done.stderr
    assert one.end()[0] == 0


def test_a_run_measures_both_directions_and_both_ends(tmp_path: Path) -> None:
    with serving(*LISTEN) as one:
        report = ("--report", str(tmp_path / "out"))
        done = run(HOST, one.port, one.secret, *SHORT, *report)
        assert done.returncode == 0, done.stderr
        status, said = one.end()
    assert status == 0, said
    value = json.loads((tmp_path / "out/bench.json").read_text())
    assert value["complete"]
    assert (tmp_path / "out/index.html").stat().st_size > 1000
    metrics = {(r["metric"], r["case"]["subject"]) for r in value["results"]}
    both = ("to the other host", "from the other host")
    for metric in ("tcp-rate", "udp-packets", "tcp-near-cpu", "tcp-far-cpu", "least-loss"):
        assert {(metric, subject) for subject in both} <= metrics
    for metric in ("idle-p50", "idle-p99", "idle-p999", "loaded-p50", "loaded-p999"):
        assert (metric, both[0]) in metrics
    tcp = [s for s in value["samples"] if s["figure"] == "tcp"]
    assert all(s["values"]["bytes"] > 0 for s in tcp)
    udp = [s for s in value["samples"] if s["figure"] == "udp"]
    assert all(0 < s["values"]["received"] <= s["values"]["sent"] for s in udp)
    assert one.secret not in done.stdout + done.stderr + json.dumps(value)


def test_a_wrong_secret_is_one_line_and_the_true_one_still_gets_in() -> None:
    with serving(*LISTEN) as one:
        done = run(HOST, one.port, OTHER_SECRET)
        assert done.returncode == 1
        assert one_line(done).endswith("refuses the secret; expected the one it printed last")
        still_serves(one)


def test_one_secret_is_good_for_one_run() -> None:
    with serving(*LISTEN) as one:
        still_serves(one)
        done = run(HOST, one.port, one.secret)
    assert done.returncode == 1
    assert "expected `tunneld bench serve` there" in one_line(done)


def test_while_one_is_served_the_same_secret_lets_nobody_else_in() -> None:
    with serving(*LISTEN) as one:
        channel, _ = admitted(Place(host=HOST, port=one.port), Secret.read(one.secret))
        one.wait_for("serving")
        with connect(one.port) as second:
            second.settimeout(1.0)
            # It may be connected by the kernel; nobody speaks to it.
            with pytest.raises(TimeoutError):
                second.recv(1)
        channel.close()
        status, said = one.end()
    assert status == 1
    assert "the other end is gone" in said


def test_what_a_listener_heard_proves_nothing_later() -> None:
    """A stranger between both ends records a whole run-in, and plays it to a new connection."""
    with serving(*LISTEN) as one:
        secret = Secret.read(one.secret)
        with connect(one.port) as stream:
            theirs = whole(stream, HELLO_BYTES)[-32:]
            own = bytes(32)
            heard = hello(own) + secret.key("run", theirs + own)
        # It went away before it was let in: the secret is not used up.
        with connect(one.port) as stream:
            whole(stream, HELLO_BYTES)
            stream.sendall(heard)
            assert whole(stream, VERDICT_BYTES) == bytes(1 + PROOF_BYTES)
            assert stream.recv(1) == b""
        still_serves(one)


def test_who_mirrors_the_servers_words_is_refused_by_both() -> None:
    with serving(*LISTEN) as one, connect(one.port) as stream:
        said = whole(stream, HELLO_BYTES)
        stream.sendall(said + bytes(PROOF_BYTES))
        assert whole(stream, 1) == b"\x00"
        stream.close()
        still_serves(one)


def test_a_host_that_cannot_prove_the_secret_gets_no_packet() -> None:
    """Somebody else listens where the run expects its host, and says yes to everything."""
    with socket.create_server((HOST, 0)) as impostor:
        port = impostor.getsockname()[1]
        argv = [*TUNNELD, "bench", "run", HOST, "--port", str(port)]
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            assert process.stdin is not None
            process.stdin.write(OTHER_SECRET + "\n")
            process.stdin.flush()
            stream, _ = impostor.accept()
            with stream:
                stream.sendall(hello(bytes(32)))
                whole(stream, ANSWER_BYTES)
                stream.sendall(b"\x01" + bytes(PROOF_BYTES))
                _, said = process.communicate(timeout=TIMEOUT_S)
                assert stream.recv(1) == b"", "it said something to who proved nothing"
    assert process.returncode == 1
    assert "does not know the secret" in said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (MAGIC + bytes([VERSION + 1]) + bytes(32), f"speaks version {VERSION + 1}"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "does not speak as `tunneld bench`"),
        (b"", "ended the connection"),
    ],
)
def test_another_version_or_program_at_the_port_is_named(said: bytes, expected: str) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with subprocess.Popen(
            [*TUNNELD, "bench", "run", HOST, "--port", str(port)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=environment(),
        ) as process:
            assert process.stdin is not None
            process.stdin.write(OTHER_SECRET + "\n")
            process.stdin.flush()
            stream, _ = other.accept()
            with stream:
                stream.sendall(said)
            _, heard = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert expected in heard
    assert "Traceback" not in heard


def test_a_crowd_that_never_answers_keeps_nobody_out() -> None:
    with serving(*LISTEN) as one:
        crowd = [connect(one.port) for _ in range(MOST_PENDING * 2)]
        try:
            still_serves(one)
        finally:
            for stream in crowd:
                stream.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" * 20, bytes(4096), b"\xff" * 73])
def test_a_stranger_that_says_anything_is_turned_away(said: bytes) -> None:
    with serving(*LISTEN) as one:
        with connect(one.port) as stream:
            stream.sendall(said)
            assert whole(stream, HELLO_BYTES).startswith(MAGIC)
            # A verdict, or a reset where more was sent than is read.
            with suppress(ConnectionResetError):
                assert whole(stream, VERDICT_BYTES).strip(b"\x00") == b""
        still_serves(one)


def test_nobody_comes(tmp_path: Path) -> None:
    with serving(*LISTEN, "--wait", "1") as one:
        status, said = one.end()
    assert status == 1
    assert said.splitlines()[-1] == "tunneld: bench: nobody proved the secret within 1 s"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_by_a_signal_and_a_run_then_keeps_what_it_has(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(*LISTEN) as one:
        argv = [*TUNNELD, "bench", "run", HOST, "--port", str(one.port), "--figures", "idle"]
        argv += ["--rounds", "500", "--seconds", "0.1", "--report", str(tmp_path)]
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            assert process.stdin is not None
            process.stdin.write(one.secret + "\n")
            process.stdin.flush()
            raw = tmp_path / "bench.json"
            deadline = time.monotonic() + TIMEOUT_S
            while not raw.exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.05)
            one.process.send_signal(number)
            status, said = one.end()
            _, heard = process.communicate(timeout=TIMEOUT_S)
    assert status == 128 + number
    assert "Traceback" not in said + heard
    assert process.returncode == 1
    [line] = [line for line in heard.splitlines() if line.startswith("tunneld: ")]
    assert "the other end" in line
    value = json.loads(raw.read_text())
    assert value["samples"]
    assert not value["complete"]


def test_orders_beyond_their_bounds_are_refused_and_the_run_goes_on() -> None:
    good = Order(kind="echo", is_sender=True, token=b"12345678").to_json()
    bad: list[dict[str, Any]] = [
        {},
        {"order": "everything"},
        *({"order": good | {name: value}} for name, value in (
            ("duration_s", 1e9),
            ("duration_s", "nan"),
            ("streams", 65),
            ("sizes", [8]),
            ("sizes", list(range(64, 1064))),
            ("token", "00"),
            ("kind", "shell"),
            ("per_second", -1),
            ("count", 0),
        )),
    ]  # fmt: skip
    with serving(*LISTEN) as one:
        channel, _ = admitted(Place(host=HOST, port=one.port), Secret.read(one.secret))
        assert "welcome" in channel.receive(TIMEOUT_S)
        for number, order in enumerate(bad):
            channel.send({"id": number} | order)
            said = channel.receive(TIMEOUT_S)
            assert said["id"] == number
            assert "an order" in said["error"], said
        channel.send({"bye": True})
        status, said_all = one.end()
        channel.close()
    assert (status, "Traceback" in said_all) == (0, False), said_all


def test_more_orders_at_once_than_a_measurement_has_are_refused() -> None:
    waits = Order(kind="stream", is_sender=False, token=b"12345678").to_json()
    with serving(*LISTEN) as one:
        channel, _ = admitted(Place(host=HOST, port=one.port), Secret.read(one.secret))
        channel.receive(TIMEOUT_S)
        for number in range(MOST_ORDERS + 1):
            channel.send({"id": number, "order": waits})
        said = [channel.receive(TIMEOUT_S) for _ in range(MOST_ORDERS + 1)]
        channel.send({"bye": True})
        channel.close()
        assert one.end()[0] == 0
    assert [it.get("error") for it in said if "error" in it] == [
        f"bench: more than {MOST_ORDERS} orders at once"
    ]


@pytest.mark.parametrize(
    "welcome",
    [
        {},
        {"welcome": 7, "seconds": 60, "most_bits_per_s": 1e9},
        {"welcome": {}, "seconds": "soon", "most_bits_per_s": 1e9},
        {"welcome": {}, "seconds": 60, "most_bits_per_s": float("nan")},
        {"welcome": {}, "seconds": 60, "most_bits_per_s": 1e9, "then": {"error": "\x1b[2Jgone"}},
        {"welcome": {}, "seconds": 60, "most_bits_per_s": 1e9, "then": {"result": []}},
    ],
)
def test_a_host_that_knows_the_secret_and_talks_nonsense_is_one_line(
    welcome: dict[str, Any],
) -> None:
    secret = Secret(os.urandom(16))
    then = welcome.pop("then", None)
    with socket.create_server((HOST, 0)) as listener:
        argv = [*TUNNELD, "bench", "run", HOST, "--port", str(listener.getsockname()[1])]
        with subprocess.Popen(
            [*argv, "--figures", "tcp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            assert process.stdin is not None
            process.stdin.write(secret.text + "\n")
            process.stdin.flush()
            channel = Gate(listener, secret).admit(TIMEOUT_S).channel
            listener.settimeout(TIMEOUT_S)
            channel.send(welcome)
            if then is not None:
                order = channel.receive(TIMEOUT_S)
                channel.send({"id": order["id"], "ready": True})
                stream, _ = listener.accept() if "result" in then else (None, None)
                channel.send({"id": order["id"]} | then)
                if stream is not None:
                    stream.close()
            _, heard = process.communicate(timeout=TIMEOUT_S)
            channel.close()
    assert process.returncode == 1
    lines = [line for line in heard.splitlines() if line.startswith("tunneld: ")]
    assert len(lines) == 1
    assert "Traceback" not in heard
    assert "\x1b" not in lines[0]


def test_a_changed_message_ends_the_run() -> None:
    with serving(*LISTEN) as one:
        channel, _ = admitted(Place(host=HOST, port=one.port), Secret.read(one.secret))
        channel.receive(TIMEOUT_S)
        stream = channel._stream
        payload = b'{"bye": true}'
        mac = bytearray(channel._ours.mac(payload))
        mac[0] ^= 1
        stream.sendall(len(payload).to_bytes(4) + bytes(mac) + payload)
        status, said = one.end()
        channel.close()
    assert status == 1
    assert "a message was changed on the way" in said


def test_a_run_that_takes_too_long_is_ended_by_the_server() -> None:
    with serving(*LISTEN, "--duration", "2") as one:
        channel, _ = admitted(Place(host=HOST, port=one.port), Secret.read(one.secret))
        channel.receive(TIMEOUT_S)
        assert "longer than 2 s" in channel.receive(TIMEOUT_S)["over"]
        status, said = one.end()
        channel.close()
    assert status == 1
    assert "longer than 2 s, which `--duration` allows" in said


def test_the_agreed_rate_is_kept_in_both_directions() -> None:
    with serving(*LISTEN, "--max-rate", "20") as one:
        done = run(
            HOST, one.port, one.secret, "--json", "--figures", "tcp", "udp", "--rounds", "1",
            "--seconds", "1", "--sizes", "1400", "--streams", "1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert one.end()[0] == 0
    rates = {
        (s["figure"], s["case"]["subject"]): s["values"].get("bits_per_s")
        or s["values"]["delivered_bits_per_s"]
        for s in json.loads(done.stdout)["samples"]
    }
    assert len(rates) == 4
    # The first burst of TCP is not paced.
    assert all(rate < 25e6 for rate in rates.values()), rates


def test_a_secret_that_is_none_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as nobody:
        done = run(HOST, nobody.getsockname()[1], "hunter2")
        nobody.settimeout(0.2)
        with pytest.raises(TimeoutError):
            nobody.accept()
    assert done.returncode == 1
    assert "hunter2" not in done.stderr
    assert "expected the line that `tunneld bench serve` printed" in one_line(done)


def test_a_closed_port_is_one_line() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    done = run(HOST, port, OTHER_SECRET)
    assert done.returncode == 1
    assert one_line(done) == (
        f"tunneld: bench: {HOST} port {port}: Connection refused; "
        "expected `tunneld bench serve` there"
    )


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*TUNNELD, "bench", "serve", "--listen", HOST, "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen at {HOST} port {port}: Address already in use" in done.stderr


def test_a_channel_refuses_who_has_no_secret_to_offer() -> None:
    with serving(*LISTEN) as one:
        with pytest.raises(BenchError, match="refuses the secret"):
            admitted(Place(host=HOST, port=one.port), Secret(bytes(16)))
        still_serves(one)
