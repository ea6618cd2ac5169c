from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lease import gojson


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "-Infinity", "1e999", "{} {}", "", "{'a':1}", "\ufeff{}", "01"]
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gojson.loads(text)


def test_deep_nesting_is_refused_and_does_not_end_the_program() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        gojson.loads("[" * 100_000)


@pytest.mark.parametrize("name", ["Network", "network", "NETWORK", "nEtWor\u212a"])
def test_member_is_found_in_any_case(name: str) -> None:
    assert gojson.member(gojson.loads(f'{{"{name}":1}}'), "Network") == 1


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"A":2}', '{"A":1,"a":2}', '{"a":1,"a":2}', '{"a":9,"A":1,"a":2}'],
)
def test_of_several_members_the_last_written_counts(text: str) -> None:
    assert gojson.member(gojson.loads(text), "a") == 2


def test_absent_member_differs_from_null() -> None:
    assert gojson.member({"a": None}, "a", "default") is None
    assert gojson.member({}, "a", "default") == "default"


def test_folding_is_by_rune_so_sharp_s_is_not_two_letters() -> None:
    assert gojson.fold("\u00df") != gojson.fold("ss")
    assert gojson.fold("\u017f") == gojson.fold("S")


def test_others_leaves_out_every_spelling_of_a_known_name() -> None:
    assert gojson.others({"x": 1, "PUBLICIP": 2, "a": 3}, ["PublicIP"]) == {"x": 1, "a": 3}


def test_lone_surrogate_becomes_the_replacement_character() -> None:
    assert gojson.loads('{"\\ud800":["\\udfff", "\\ud83d\\ude00"]}') == {"\ufffd": ["\ufffd", "😀"]}


def test_markup_is_escaped_as_go_escapes_it() -> None:
    assert gojson.dumps({"a": "<b>&\u2028é"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028é"}'


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=10,
    )
)
def test_value_reads_back_as_written(value: object) -> None:
    assert gojson.loads(gojson.dumps(value)) == value
    assert json.loads(gojson.dumps(value)) == value


@pytest.mark.parametrize("inner", ['"\\ud800"', '{"\\udfff":1}', "1"])
def test_what_is_read_can_be_written_again_and_the_rest_is_refused(inner: str) -> None:
    nested = [f'{{"X":{"[" * depth}{inner}{"]" * depth}}}' for depth in (1, 60, 65, 500, 5_000)]
    for text in nested[:2]:
        gojson.dumps(gojson.loads(text)).encode()
    for text in nested[2:]:
        with pytest.raises(ValueError, match="nested too deeply"):
            gojson.loads(text)
