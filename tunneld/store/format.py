"""Keys and values of the store, byte for byte flannel's where flannel reads them.

Path of a lease: etcd or SQLite -> **store.format** -> `lease.tracker`.
Pure: turns texts into values of `lease.model` and back; knows no connection.

One key that flannel cannot read below `<prefix>/subnets` makes every flanneld drop all its
routes. A lease key is therefore read strictly and written only in the form it is read back from.

Source: flannel `pkg/subnet/etcd/registry.go`, `pkg/subnet/subnet.go`, `pkg/lease/lease.go`.
"""

from __future__ import annotations

import posixpath
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from tunneld.errors import LeaseError
from tunneld.lease import gojson
from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    UNSPECIFIED,
    Holder,
    LeaseAttributes,
    NodeRecord,
    RecordEncryption,
    Reservation,
    SubnetKey,
    Unreadable,
)

FORMAT = 1
"""Version of the entries below `<prefix>/tunneld/`."""

_LEASE_KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([0-9a-f:]+)-(\d+))?", re.ASCII)
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

# flannel parses the lengths with 5 and 7 bits.
_MAX_IPV4_LENGTH = 31
_MAX_IPV6_LENGTH = 127

_LEASE_MEMBERS = ("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data")
_RECORD_MEMBERS = ("Format", "Subnet", "PublicIP", "PublicIPv6", "Version", "Encryption")
_ENCRYPTION_MEMBERS = ("Key", "Port", "Instance")
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)
_INSTANCE = re.compile(r"[0-9a-f]{16}", re.ASCII)


def clean_prefix(prefix: str) -> str:
    """Returns a prefix as flannel's `path.Join` leaves it: no double and no trailing slashes."""
    cleaned = posixpath.normpath(prefix)
    # POSIX keeps exactly two leading slashes, Go does not.
    return "" if cleaned == "." else re.sub("^//", "/", cleaned)


def format_lease_key(key: SubnetKey) -> str:
    """Returns the last part of a lease key: `10.5.1.0-24` or `10.5.1.0-24&fd00:5:1::-64`.

    Raises:
        LeaseError: flannel could not read the key back.
    """
    text = f"{key.ipv4.network_address}-{key.ipv4.prefixlen}"
    if key.ipv6 is not None:
        text += f"&{key.ipv6.network_address}-{key.ipv6.prefixlen}"
    if _subnet_key(text) != key:
        raise LeaseError(
            f"subnet {key} has no lease key: expected an IPv4 length of 1 to {_MAX_IPV4_LENGTH} "
            f"and an IPv6 length of 1 to {_MAX_IPV6_LENGTH}; change the network config"
        )
    return text


def parse_lease_key(text: str) -> SubnetKey:
    """Returns the subnets of the last part of a lease key.

    Raises:
        ValueError: the text is not a lease key in the one form flannel writes.
    """
    key = _subnet_key(text)
    if key is None:
        raise ValueError("not of the form <a.b.c.d>-<length>[&<IPv6>-<length>] of a whole subnet")
    return key


def encode_lease(attributes: LeaseAttributes) -> bytes:
    """Returns the value of a lease key: flannel's bytes, members tunneld does not know last."""
    value: dict[str, Any] = {
        "PublicIP": str(attributes.public_ip),
        "PublicIPv6": None if attributes.public_ipv6 is None else str(attributes.public_ipv6),
    }
    if attributes.backend_type:
        value["BackendType"] = attributes.backend_type
    if attributes.backend_data is not None:
        value["BackendData"] = attributes.backend_data
    if attributes.backend_v6_data is not None:
        value["BackendV6Data"] = attributes.backend_v6_data
    # A member flannel would take for one of its own must not come a second time.
    value |= gojson.others(attributes.extra, _LEASE_MEMBERS)
    return gojson.dumps(value).encode()


def decode_lease(value: bytes) -> LeaseAttributes:
    """Returns what the value of a lease key says, read as flannel reads it.

    Raises:
        ValueError: it is not JSON, or an address or type is not one; says which.
    """
    obj = _object(value)
    # In Go an absent address stays 0.0.0.0, while null and "" are errors.
    public_ip = gojson.member(obj, "PublicIP", str(UNSPECIFIED))
    return LeaseAttributes(
        public_ip=_ipv4(public_ip, "PublicIP"),
        public_ipv6=_optional_ipv6(obj),
        backend_type=_text(gojson.member(obj, "BackendType"), "BackendType"),
        backend_data=gojson.member(obj, "BackendData"),
        backend_v6_data=gojson.member(obj, "BackendV6Data"),
        extra=gojson.others(obj, _LEASE_MEMBERS),
    )


def check_node_id(node_id: str) -> None:
    """Raises LeaseError when a node id cannot be the last part of a key."""
    if _NODE_ID.fullmatch(node_id) is None:
        raise LeaseError(
            f"node id {node_id!r} is not usable: expected up to 128 letters, digits, dots, "
            "dashes and underscores; correct the node id in the state directory"
        )


def encode_record(record: NodeRecord) -> bytes:
    """Returns the value of a node record, members tunneld does not know last."""
    value = {
        "Format": FORMAT,
        "Subnet": format_lease_key(record.key),
        **_holder(record.holder),
        "Version": record.version,
    }
    if record.encryption is not None:
        value["Encryption"] = _encryption_value(record.encryption)
    return gojson.dumps(value | gojson.others(record.extra, _RECORD_MEMBERS)).encode()


def decode_record(node_id: str, value: bytes) -> NodeRecord:
    """Returns a node record.

    One of an unknown format is read as far as it says whose it is: such a node has keys.

    Raises:
        ValueError: the node id or the value cannot be read; says why.
    """
    obj = _object(value)
    return NodeRecord(
        node_id=node_id,
        key=parse_lease_key(_text(gojson.member(obj, "Subnet"), "Subnet")),
        public_ip=_ipv4(gojson.member(obj, "PublicIP"), "PublicIP"),
        public_ipv6=_optional_ipv6(obj),
        version=_text(gojson.member(obj, "Version"), "Version"),
        encryption=_encryption(obj),
        extra=gojson.others(obj, _RECORD_MEMBERS),
    )


def is_node_id(text: str) -> bool:
    """True for what may be the last part of a record's key."""
    return _NODE_ID.fullmatch(text) is not None


def encode_reservation(reservation: Reservation) -> bytes:
    """Returns the value of a reservation."""
    return gojson.dumps({"Format": FORMAT, **_holder(reservation.holder)}).encode()


def decode_reservation(key: SubnetKey, value: bytes) -> Reservation:
    """Returns a reservation.

    Raises:
        ValueError: the value cannot be read; says why.
    """
    obj = _own_object(value)
    return Reservation(
        key=key,
        public_ip=_ipv4(gojson.member(obj, "PublicIP"), "PublicIP"),
        public_ipv6=_optional_ipv6(obj),
    )


def _subnet_key(text: str) -> SubnetKey | None:
    match = _LEASE_KEY.fullmatch(text)
    if match is None:
        return None
    address, length, address6, length6 = match.groups()
    try:
        ipv4 = IPv4Network(f"{address}/{length}")
        ipv6 = None if address6 is None else IPv6Network(f"{address6}/{length6}")
    except ValueError:
        return None
    is_ipv6_only = ipv4 == NO_IPV4_SUBNET and ipv6 is not None
    if not (1 <= ipv4.prefixlen <= _MAX_IPV4_LENGTH or is_ipv6_only):
        return None
    if ipv6 is not None and not 1 <= ipv6.prefixlen <= _MAX_IPV6_LENGTH:
        return None
    # Go spells an IPv4-mapped address as IPv4, which no lease key can hold.
    if ipv6 is not None and ipv6.network_address.ipv4_mapped is not None:
        return None
    # Two spellings of one subnet would be two keys, and so two holders.
    spelled = f"{ipv4.network_address}-{ipv4.prefixlen}"
    if ipv6 is not None:
        spelled += f"&{ipv6.network_address}-{ipv6.prefixlen}"
    return SubnetKey(ipv4, ipv6) if spelled == text else None


def _object(value: bytes) -> dict[str, Any]:
    # Go replaces bytes that are not UTF-8 as well.
    obj = gojson.loads(value.decode(errors="replace"))
    if not isinstance(obj, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a bad value, as all others
    return obj


def _own_object(value: bytes) -> dict[str, Any]:
    obj = _object(value)
    if not _is_of_our_format(obj):
        raise ValueError(f"Format is {gojson.member(obj, 'Format')!r}, expected {FORMAT}")
    return obj


def _is_of_our_format(obj: dict[str, Any]) -> bool:
    version = gojson.member(obj, "Format")
    return not isinstance(version, bool) and bool(version == FORMAT)


def _encryption(obj: dict[str, Any]) -> RecordEncryption | Unreadable | None:
    found = gojson.member(obj, "Encryption")
    if not _is_of_our_format(obj):
        version = gojson.member(obj, "Format")
        # Written again by us it must still be none that can be read.
        kept = {"Format": version, "Encryption": found}
        return Unreadable(value=kept, detail=f"Format is {version!r}, expected {FORMAT}")
    if found is None:
        return None
    try:
        return _readable_encryption(found)
    except ValueError as error:
        return Unreadable(value=found, detail=str(error))


def _readable_encryption(found: object) -> RecordEncryption:
    if not isinstance(found, dict):
        raise ValueError("Encryption is not a JSON object")  # noqa: TRY004 - as above
    key, port, instance = (gojson.member(found, name) for name in _ENCRYPTION_MEMBERS)
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise ValueError("Encryption.Key is not 32 bytes in base64")
    if port is None:
        raise ValueError("Encryption names no Port: that host cannot open it, as it says itself")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65_535:
        raise ValueError("Encryption.Port is not a UDP port")
    if not isinstance(instance, str) or _INSTANCE.fullmatch(instance) is None:
        raise ValueError("Encryption.Instance is not 16 hexadecimal digits")
    return RecordEncryption(
        key=key,
        port=port,
        instance=instance,
        extra=gojson.others(found, _ENCRYPTION_MEMBERS),
    )


def _encryption_value(encryption: RecordEncryption | Unreadable) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(encryption, Unreadable):
        return encryption.value
    known = {"Key": encryption.key, "Port": encryption.port, "Instance": encryption.instance}
    return known | gojson.others(encryption.extra, _ENCRYPTION_MEMBERS)


def _holder(holder: Holder) -> dict[str, str]:
    """Returns the members that name a host in our own entries; IPv6 only where there is some."""
    members = {"PublicIP": str(holder.public_ip)}
    if holder.public_ipv6 is not None:
        members["PublicIPv6"] = str(holder.public_ipv6)
    return members


def _optional_ipv6(obj: dict[str, Any]) -> IPv6Address | None:
    value = gojson.member(obj, "PublicIPv6")
    return None if value is None else _ipv6(value, "PublicIPv6")


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")  # noqa: TRY004 - as above
    return value


def _ipv4(value: object, name: str) -> IPv4Address:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not an IPv4 address")  # noqa: TRY004 - as above
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError(f"{name} is not an IPv4 address") from None


def _ipv6(value: object, name: str) -> IPv6Address:
    # Python takes "fe80::1%eth0" for an address, Go does not.
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"{name} is not an IPv6 address")
    try:
        address = IPv6Address(value)
    except ValueError:
        raise ValueError(f"{name} is not an IPv6 address") from None
    if address.ipv4_mapped is not None:
        raise ValueError(f"{name} is an IPv4 address written as IPv6")
    return address
