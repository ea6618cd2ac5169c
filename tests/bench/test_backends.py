"""What another format or family costs beside raw IPv4, on figures worked out by hand."""

from __future__ import annotations

from bench.report import backends
from bench.report.evaluation import TCP_1, TUNNELD, Evaluation
from tests.bench.samples import tcp1


def evaluation(vxlan: float) -> Evaluation:
    samples = [
        tcp1(*(overlay, number, value))
        for number in (1, 2, 3)
        for overlay, value in (
            *((TUNNELD, 9.0), ("tunneld vxlan", vxlan)),
            *((TUNNELD, 11.0), ("tunneld IPv6", 10.0)),
        )
    ]
    return Evaluation({"samples": samples})


def test_a_ratio_is_taken_to_the_mean_of_all_raw_values_of_its_round() -> None:
    seen = backends.ratio(evaluation(9.5), "wire", TCP_1[0], "tunneld vxlan")
    assert seen is not None
    assert (round(seen.median, 6), seen.count) == (0.95, 3)


def test_more_than_ten_per_cent_less_is_marked() -> None:
    head, raw, vxlan, ipv6, *_cpu = backends.rows(evaluation(8.9))
    assert head == ["figure", "underlay", "hosts joined by", "seen", "by raw IPv4"]
    assert raw[2:] == [TUNNELD, "10.00 (9.00–11.00)", "–"]
    assert vxlan[2:] == ["tunneld vxlan", "8.90", "**0.89**"]
    assert ipv6[2:] == ["tunneld IPv6", "10.00", "1.00"]
    assert backends.rows(evaluation(9.1))[2][4] == "0.91"


def test_what_the_kernel_does_alone_is_not_judged() -> None:
    samples = [tcp1("tunneld", 1, 10.0), tcp1("host-gw", 1, 5.0)]
    [_, _, plain, *_] = backends.rows(Evaluation({"samples": samples}))
    assert plain[2:] == ["host-gw", "5.00", "0.50"]
