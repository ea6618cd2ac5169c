from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.goldens import MALFORMED_KEYS
from tunneld.errors import LeaseError
from tunneld.lease import gojson
from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    LeaseAttributes,
    NodeRecord,
    RecordEncryption,
    Reservation,
    SubnetKey,
    Unreadable,
)
from tunneld.store import format as fmt

# Values that flanneld v0.28 wrote, read back with etcdctl.
FLANNEL_VALUES: dict[bytes, LeaseAttributes] = {
    b'{"PublicIP":"10.99.0.13","PublicIPv6":null}': LeaseAttributes(
        public_ip=IPv4Address("10.99.0.13")
    ),
    b'{"PublicIP":"10.99.0.11","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"fe:e7:c9:24:bf:30"}}': LeaseAttributes(
        public_ip=IPv4Address("10.99.0.11"),
        backend_type="vxlan",
        backend_data={"VNI": 1, "VtepMAC": "fe:e7:c9:24:bf:30"},
    ),
    b'{"PublicIP":"10.99.0.11","PublicIPv6":"fd99::11","BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"ba:96:e6:9c:99:ba"},'
    b'"BackendV6Data":{"VNI":1,"VtepMAC":"12:ed:dc:97:cc:d5"}}': LeaseAttributes(
        public_ip=IPv4Address("10.99.0.11"),
        public_ipv6=IPv6Address("fd99::11"),
        backend_type="vxlan",
        backend_data={"VNI": 1, "VtepMAC": "ba:96:e6:9c:99:ba"},
        backend_v6_data={"VNI": 1, "VtepMAC": "12:ed:dc:97:cc:d5"},
    ),
    b'{"PublicIP":"10.99.0.12","PublicIPv6":null,"BackendType":"host-gw"}': LeaseAttributes(
        public_ip=IPv4Address("10.99.0.12"), backend_type="host-gw"
    ),
    b'{"PublicIP":"0.0.0.0","PublicIPv6":null}': LeaseAttributes(public_ip=IPv4Address("0.0.0.0")),
}

json_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
json_values = st.recursive(
    json_scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)
ipv4_subnets = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(1, 31),
)
# Below 2000::/3 and fd00::/8 an address is never an IPv4-mapped one.
ipv6_subnets = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.integers(1 << 125, 2**128 - 1),
    st.integers(1, 127),
)
public_ipv6s = st.none() | st.integers(1 << 125, 2**128 - 1).map(IPv6Address)
keys = st.one_of(
    st.builds(SubnetKey, ipv4_subnets, st.none() | ipv6_subnets),
    st.builds(SubnetKey, st.just(NO_IPV4_SUBNET), ipv6_subnets),
)
attributes = st.builds(
    LeaseAttributes,
    public_ip=st.ip_addresses(v=4),
    public_ipv6=public_ipv6s,
    backend_type=st.sampled_from(["", "vxlan", "host-gw", "wireguard"]),
    backend_data=json_values,
    backend_v6_data=json_values,
    extra=st.dictionaries(st.sampled_from(["Tunneld", "Zone", "é<&>", ""]), json_values),
)


@pytest.mark.parametrize("value", FLANNEL_VALUES)
def test_lease_values_are_flannels_bytes(value: bytes) -> None:
    assert fmt.encode_lease(FLANNEL_VALUES[value]) == value
    assert fmt.decode_lease(value) == FLANNEL_VALUES[value]


@given(attributes)
def test_lease_value_reads_back_as_what_was_written(wanted: LeaseAttributes) -> None:
    assert fmt.decode_lease(fmt.encode_lease(wanted)) == wanted


@pytest.mark.parametrize(
    "value",
    [
        b'{"publicip":"192.0.2.1","BACKENDTYPE":"vxlan"}',
        b'{"PublicIP":"192.0.2.9","PUBLICIP":"192.0.2.1","BackendType":"vxlan"}',
        b'{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":null}',
        '{"Public\u0131P":1,"PublicIP":"192.0.2.1","Bac\u212aendType":"vxlan"}'.encode(),
    ],
    ids=["case", "last", "null", "kelvin"],
)
def test_member_names_match_as_in_go(value: bytes) -> None:
    found = fmt.decode_lease(value)
    assert found.public_ip == IPv4Address("192.0.2.1")
    assert found.backend_type == "vxlan"


def test_unknown_members_are_kept_behind_ours() -> None:
    value = b'{"Tunneld":{"b":1,"a":[2]},"PublicIP":"192.0.2.1","Zone":"x"}'
    assert fmt.encode_lease(fmt.decode_lease(value)) == (
        b'{"PublicIP":"192.0.2.1","PublicIPv6":null,"Tunneld":{"b":1,"a":[2]},"Zone":"x"}'
    )


def test_unknown_member_cannot_pass_for_one_of_flannels() -> None:
    posing: dict[str, Any] = {"publicip": "203.0.113.1"}
    wanted = LeaseAttributes(public_ip=IPv4Address("192.0.2.1"), extra=posing)
    assert fmt.encode_lease(wanted) == b'{"PublicIP":"192.0.2.1","PublicIPv6":null}'


def test_absent_public_ip_is_the_unspecified_one() -> None:
    assert fmt.decode_lease(b"{}").public_ip == IPv4Address("0.0.0.0")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{} {}",
        b'{"PublicIP":null}',
        b'{"PublicIP":""}',
        b'{"PublicIP":"fd00::1"}',
        b'{"PublicIP":"192.0.2.01"}',
        b'{"PublicIP":"192.0.2.1/24"}',
        b'{"PublicIP":3221225985}',
        b'{"PublicIP":"192.0.2.1","PublicIPv6":""}',
        b'{"PublicIP":"192.0.2.1","PublicIPv6":"192.0.2.1"}',
        b'{"PublicIP":"192.0.2.1","PublicIPv6":"fe80::1%eth0"}',
        b'{"PublicIP":"192.0.2.1","BackendType":1}',
        b'{"PublicIP":"192.0.2.1","x":NaN}',
        b"[" * 100_000,
    ],
    ids=lambda value: str(value[:40]),
)
def test_value_flannel_cannot_decode_is_malformed(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        fmt.decode_lease(value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_lease_or_malformed(value: bytes) -> None:
    try:
        fmt.decode_lease(value)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text",
    [
        *MALFORMED_KEYS,
        # lengths beyond flannel's 5 and 7 bits
        "10.12.13.0-32",
        "10.12.13.0-24&fd00::-128",
        # not one subnet, or not its one spelling
        "10.12.13.1-24",
        "010.12.13.0-24",
        "10.12.13.0-024",
        "10.12.13.0-24&fd00:12:13::1-56",
        "10.12.13.0-24&fd00:0012:13::-56",
        "10.12.13.0-24&FD00:12:13::-56",
        "10.12.13.0-24&fd00:12:13:0::-56",
        "10.12.13.0-24&::ffff:102:300-120",
        "0.0.0.0-0",
        "0.0.0.0-0&::-0",
        "0.0.0.0-1x",
        "x10.12.13.0-24",
        "a/10.12.13.0-24",
        "10.12.13.0-24\n",
        "١٠.12.13.0-24",
        "",
    ],
)
def test_text_that_is_no_lease_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        fmt.parse_lease_key(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("10.12.13.0-24", SubnetKey(IPv4Network("10.12.13.0/24"))),
        (
            "10.12.13.0-24&fd00:12:13::-56",
            SubnetKey(IPv4Network("10.12.13.0/24"), IPv6Network("fd00:12:13::/56")),
        ),
        (
            "10.5.57.0-24&fd00:10:5:1a::-64",
            SubnetKey(IPv4Network("10.5.57.0/24"), IPv6Network("fd00:10:5:1a::/64")),
        ),
        (
            "0.0.0.0-0&fd00:10:5:9::-64",
            SubnetKey(IPv4Network("0.0.0.0/0"), IPv6Network("fd00:10:5:9::/64")),
        ),
    ],
)
def test_lease_keys_of_flannel_read_and_write_back(text: str, key: SubnetKey) -> None:
    assert fmt.parse_lease_key(text) == key
    assert fmt.format_lease_key(key) == text


@given(keys)
def test_every_key_that_is_written_reads_back(key: SubnetKey) -> None:
    assert fmt.parse_lease_key(fmt.format_lease_key(key)) == key


@given(st.from_regex(r"\A[0-9.]{1,15}-[0-9]{1,3}(&[0-9a-f:]{1,20}-[0-9]{1,3})?\Z"))
def test_every_key_that_is_read_writes_back(text: str) -> None:
    try:
        key = fmt.parse_lease_key(text)
    except ValueError:
        return
    assert fmt.format_lease_key(key) == text


@pytest.mark.parametrize("subnet", ["10.5.1.7/32", "0.0.0.0/0"])
def test_key_flannel_could_not_read_is_not_written(subnet: str) -> None:
    with pytest.raises(LeaseError, match="has no lease key"):
        fmt.format_lease_key(SubnetKey(IPv4Network(subnet)))


@given(keys, st.ip_addresses(v=4), public_ipv6s, st.text(st.characters(exclude_categories=["Cs"])))
def test_record_reads_back_with_what_a_later_version_wrote(
    key: SubnetKey, public_ip: IPv4Address, public_ipv6: IPv6Address | None, version: str
) -> None:
    wanted = NodeRecord(
        node_id="n1",
        key=key,
        public_ip=public_ip,
        public_ipv6=public_ipv6,
        version=version,
        extra={"Identity": ["x"]},
    )
    assert fmt.decode_record("n1", fmt.encode_record(wanted)) == wanted


def test_record_carries_its_format_version() -> None:
    wanted = NodeRecord(
        node_id="n1",
        key=SubnetKey(IPv4Network("10.5.1.0/24")),
        public_ip=IPv4Address("192.0.2.1"),
        version="0.1.0",
    )
    assert fmt.encode_record(wanted) == (
        b'{"Format":1,"Subnet":"10.5.1.0-24","PublicIP":"192.0.2.1","Version":"0.1.0"}'
    )


def test_record_and_reservation_tell_a_host_without_ipv4_by_its_ipv6_address() -> None:
    key = SubnetKey(NO_IPV4_SUBNET, IPv6Network("fd00:10:5:1a::/64"))
    wanted = NodeRecord(
        node_id="n1",
        key=key,
        public_ip=IPv4Address(0),
        public_ipv6=IPv6Address("fd99::11"),
        version="0.1.0",
    )
    assert fmt.encode_record(wanted) == (
        b'{"Format":1,"Subnet":"0.0.0.0-0\\u0026fd00:10:5:1a::-64","PublicIP":"0.0.0.0",'
        b'"PublicIPv6":"fd99::11","Version":"0.1.0"}'
    )
    reserved = Reservation(key=key, public_ip=IPv4Address(0), public_ipv6=IPv6Address("fd99::11"))
    assert fmt.encode_reservation(reserved) == (
        b'{"Format":1,"PublicIP":"0.0.0.0","PublicIPv6":"fd99::11"}'
    )


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b'{"Format":2,"PublicIP":"192.0.2.1","Version":"9"}',
        b'{"Format":2,"Subnet":"10.5.1.0-24","Version":"9"}',
        b'{"Format":1,"Subnet":"10.5.1.1-24","PublicIP":"192.0.2.1","Version":"9"}',
        b'{"Format":1,"Subnet":"10.5.1.0-24","Version":"9"}',
        b'{"Format":1,"PublicIP":"192.0.2.1","Version":"9"}',
    ],
)
def test_record_that_does_not_say_whose_it_is_is_malformed(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        fmt.decode_record("n1", value)


KEY = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
KEYED = (
    b'{"Format":1,"Subnet":"10.5.1.0-24","PublicIP":"192.0.2.1","Version":"9","Encryption":'
    b'{"Key":"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=","Port":8286,'
    b'"Instance":"00112233445566ff","Rekey":90}}'
)


def recorded(value: bytes) -> RecordEncryption | Unreadable | None:
    """Returns what a record says of keys; what is written again must say the same."""
    found = fmt.decode_record("n1", value)
    assert (found.node_id, found.key.ipv4) == ("n1", IPv4Network("10.5.1.0/24"))
    again = fmt.decode_record("n1", fmt.encode_record(found)).encryption
    assert type(again) is type(found.encryption)
    return found.encryption


def test_record_says_where_its_node_is_tried_with_keys() -> None:
    assert recorded(KEYED) == RecordEncryption(
        key=KEY, port=8286, instance="00112233445566ff", extra={"Rekey": 90}
    )
    assert fmt.encode_record(fmt.decode_record("n1", KEYED)) == KEYED


@pytest.mark.parametrize("value", [KEYED[:71] + b"}", KEYED[:71] + b',"Encryption":null}'])
def test_record_without_keys_says_none(value: bytes) -> None:
    assert recorded(value) is None


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (b'"Format":1', b'"Format":2', "Format is 2"),
        (b'"Format":1', b'"Format":true', "Format is True"),
        (b'"Format":1,', b"", "Format is None"),
        (KEYED[85:-1], b"7", "not a JSON object"),
        (KEYED[85:-1], b"[]", "not a JSON object"),
        (KEYED[85:-1], b"{}", "Encryption.Key"),
        (b"3p7bfXt9", b"3p7bfX!9", "Encryption.Key"),
        (b"3p7bfXt9", b"", "Encryption.Key"),
        (b'"' + KEY.encode() + b'"', b"null", "Encryption.Key"),
        (b"8286", b"0", "Encryption.Port"),
        (b"8286", b"65536", "Encryption.Port"),
        (b"8286", b"true", "Encryption.Port"),
        (b"8286", b'"8286"', "Encryption.Port"),
        (b"00112233445566ff", b"00112233445566f", "Encryption.Instance"),
        (b'"00112233445566ff"', b"17", "Encryption.Instance"),
    ],
)
def test_record_of_an_unknown_form_has_keys(before: bytes, after: bytes, says: str) -> None:
    assert KEYED.count(before) == 1
    found = recorded(KEYED.replace(before, after))
    assert isinstance(found, Unreadable)
    assert says in found.detail


def test_record_of_an_unknown_format_without_a_word_of_keys_has_keys() -> None:
    value = b'{"Format":2,"Subnet":"10.5.1.0-24","PublicIP":"192.0.2.1","Version":"9"}'
    assert isinstance(recorded(value), Unreadable)


@given(json_values)
def test_whatever_a_record_says_of_keys_costs_nothing_but_itself(value: Any) -> None:
    text = gojson.dumps({**json.loads(KEYED), "Encryption": value}).encode()
    found = recorded(text)
    assert (found is None) is (value is None)


@given(keys, st.ip_addresses(v=4), public_ipv6s)
def test_reservation_reads_back(
    key: SubnetKey, public_ip: IPv4Address, public_ipv6: IPv6Address | None
) -> None:
    wanted = Reservation(key=key, public_ip=public_ip, public_ipv6=public_ipv6)
    assert fmt.decode_reservation(key, fmt.encode_reservation(wanted)) == wanted


@pytest.mark.parametrize(
    ("prefix", "cleaned"),
    [
        ("/coreos.com/network", "/coreos.com/network"),
        ("/coreos.com/network/", "/coreos.com/network"),
        ("//coreos.com///network//", "/coreos.com/network"),
        ("coreos.com/network", "coreos.com/network"),
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("/", "/"),
        ("///", "/"),
        ("", ""),
        (".", ""),
    ],
)
def test_prefix_is_cleaned_as_by_gos_path_join(prefix: str, cleaned: str) -> None:
    assert fmt.clean_prefix(prefix) == cleaned


@pytest.mark.parametrize("node_id", ["", "a/b", "..", "é", "a b", "x" * 129])
def test_node_id_that_is_no_key_part_is_refused(node_id: str) -> None:
    with pytest.raises(LeaseError, match="node id"):
        fmt.check_node_id(node_id)
