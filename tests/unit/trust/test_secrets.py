"""Key and PSK files, through the native module that reads them."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.unit.trust.values import ALICE
from tunneld.errors import TrustError
from tunneld.trust.files import read_identities
from tunneld.trust.secrets import NodeKey, Psks, credential

# RFC 7748 §6.1, Alice's private key.
ALICE_SECRET = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
PSK = bytes(range(32))
PSK_2 = bytes(range(1, 65))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def loaded(path: Path) -> NodeKey:
    key = NodeKey.load(path)
    assert key is not None
    return key


def psks(path: Path, **environ: str) -> Psks:
    return Psks.load(path, environ)


def id_of(psk: bytes) -> str:
    return hashlib.sha256(b"tunneld/1 psk id" + psk).digest()[:4].hex()


def test_the_public_key_is_the_one_of_rfc_7748(tmp_path: Path) -> None:
    assert str(loaded(written(tmp_path / "key", ALICE_SECRET + "\n")).public) == ALICE


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    assert NodeKey.load(path) is None
    former = os.umask(0)
    try:
        made = NodeKey.create(path)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert [file.name for file in tmp_path.iterdir()] == ["identity.key"]
    secret = base64.b64decode(path.read_text())
    # Another library's public key for the same file, and the bits `wg genkey` sets.
    other = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    assert made.public.raw == loaded(path).public.raw == other
    assert (secret[0] & 7, secret[31] & 192) == (0, 64)

    with pytest.raises(TrustError, match="identity new"):
        NodeKey.create(path)
    assert loaded(path).public == made.public


def test_a_key_is_replaced_by_another(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = NodeKey.create(path).public
    second = NodeKey.replace(path).public
    assert first != second == loaded(path).public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_a_key_that_cannot_be_written_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"No such file or directory; .*--state-dir") as caught:
        NodeKey.create(tmp_path / "gone" / "identity.key")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
@pytest.mark.parametrize("what", ["key", "psk"])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, what: str, mode: int) -> None:
    path = written(tmp_path / "file", ALICE_SECRET, mode)
    with pytest.raises(TrustError, match=f"open to others \\(mode 0{mode:o}\\).*chmod 600"):
        loaded(path) if what == "key" else psks(path)


@pytest.mark.root
@pytest.mark.parametrize("what", ["key", "psk"])
def test_a_file_of_another_user_is_refused(tmp_path: Path, what: str) -> None:
    path = written(tmp_path / "file", ALICE_SECRET)
    os.chown(path, 12345, 12345)
    with pytest.raises(TrustError, match="belongs to user 12345"):
        loaded(path) if what == "key" else psks(path)


@pytest.mark.root
def test_root_makes_and_reads_a_key_for_the_daemons_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    path = tmp_path / "identity.key"
    made = NodeKey.create(path).public
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    assert loaded(path).public == made


@pytest.mark.parametrize(
    "content",
    ["", "x", b64(bytes(31)), b64(bytes(33)), f"{ALICE_SECRET}{ALICE_SECRET}", b"\xff" * 32],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(TrustError, match="holds no X25519 key"):
        loaded(written(tmp_path / "key", content))


def test_a_psk_file_holds_one_key_or_the_two_of_a_rotation(tmp_path: Path) -> None:
    one = written(tmp_path / "one", f"# of the network\n\n{b64(PSK)}\n")
    two = written(tmp_path / "two", f"{b64(PSK_2)}\r\n  {b64(PSK)}")
    assert psks(one).ids == (id_of(PSK),)
    assert psks(two).ids == (id_of(PSK_2), id_of(PSK))


@pytest.mark.parametrize("length", [32, 48, 64])
def test_a_psk_has_32_to_64_bytes(tmp_path: Path, length: int) -> None:
    psk = os.urandom(length)
    assert psks(written(tmp_path / "psk", b64(psk))).ids == (id_of(psk),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1: the file holds no key"),
        ("# nothing\n", "line 1: the file holds no key"),
        ("\ufeff" + b64(PSK), "line 1: it begins with a byte order mark"),
        ("secret!", "line 1: it is not base64"),
        (b64(PSK)[:-1], "line 1: it is not base64"),
        (b64(PSK[:31]), "line 1: the key has 31 bytes"),
        (b64(bytes(range(65))), "line 1: the key has 65 bytes"),
        (b64(bytes(32)), "one byte repeated"),
        (b64(b"a" * 40), "one byte repeated"),
        (f"{b64(PSK)}\n{b64(PSK)}\n", "line 2: it is the key above once more"),
        (f"{b64(PSK)}\n{b64(PSK_2)}\n{b64(PSK[::-1])}", "line 3: it is a third key"),
        (os.urandom(32) + b"\xff", "is not base64"),
        ("A" * 20_000, "larger than"),
    ],
)
def test_a_bad_psk_file_is_named_and_not_quoted(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    path = written(tmp_path / "psk", content)
    with pytest.raises(TrustError, match=says) as caught:
        psks(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    text = content if isinstance(content, str) else content.decode(errors="replace")
    assert not [word for word in text.split() if len(word) > 8 and word in message]


@pytest.mark.parametrize("kind", ["directory", "fifo", "missing"])
def test_what_is_no_file_keeps_nobody_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "psk"
    if kind == "directory":
        path.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    with pytest.raises(TrustError, match=r"no regular file|No such file"):
        psks(path)


def test_a_credential_of_systemd_may_have_a_group(tmp_path: Path) -> None:
    # systemd.exec(5): a file of root, which an ACL opens to the service's user; stat shows 0440.
    path = written(tmp_path / "tunneld.psk", b64(PSK), 0o440)
    assert psks(path, CREDENTIALS_DIRECTORY=str(tmp_path)).ids == (id_of(PSK),)
    with pytest.raises(TrustError, match="open to others"):
        psks(path, CREDENTIALS_DIRECTORY=str(tmp_path / "other"))
    with pytest.raises(TrustError, match="open to others"):
        psks(written(path, b64(PSK), 0o444), CREDENTIALS_DIRECTORY=str(tmp_path))


def test_a_credential_is_found_by_its_name(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential(environ) is None
    path = written(tmp_path / "tunneld.psk", b64(PSK))
    assert credential(environ) == path
    assert credential({}) is None


def test_handles_show_no_secret(tmp_path: Path) -> None:
    key = loaded(written(tmp_path / "key", ALICE_SECRET))
    psk = psks(written(tmp_path / "psk", b64(PSK)))
    shown = [repr(vars(key)), repr(vars(psk)), str(dir(key.handle)), str(dir(psk.handle))]
    for secret in (ALICE_SECRET, b64(PSK), PSK.hex(), "secret", "private"):
        assert not [text for text in shown if secret in text]


@pytest.mark.parametrize("kind", ["directory", "fifo", "unreadable"])
def test_what_is_no_file_of_identities_is_refused_and_ends_nothing(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "identities"
    if kind == "directory":
        path.mkdir(0o755)
    elif kind == "fifo":
        os.mkfifo(path, 0o644)
    else:
        path = Path("/proc/self/mem")
    with pytest.raises(TrustError, match=r"no regular file|Input/output error"):
        read_identities(path)
