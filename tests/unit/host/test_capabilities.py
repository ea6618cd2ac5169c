from __future__ import annotations

import pytest

from tests.unit.host.conftest import refusal, without

CODE = "from tunneld.host.capabilities import require_capabilities as r; r()"

pytestmark = pytest.mark.root


def test_root_has_what_is_needed() -> None:
    assert refusal(CODE) == "done"


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        (("net_admin",), "missing CAP_NET_ADMIN (user"),
        (("net_raw",), "missing CAP_NET_RAW (user"),
        (("net_admin", "net_raw"), "missing CAP_NET_ADMIN and CAP_NET_RAW (user"),
    ],
)
def test_each_missing_capability_is_named_in_one_line(dropped: tuple[str, ...], named: str) -> None:
    said = refusal(CODE, *without(*dropped))
    assert said.startswith(f"CapabilityError: {named}")
    assert "\n" not in said
