"""What is wrong with a message is named with field, value and rule."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everscene_bridge import protocol
from everscene_bridge.errors import MessageError
from everscene_bridge.message_bytes import pack, unpack_client, unpack_server
from everscene_bridge.messages import Event, Prompt

EVENT: dict[str, Any] = {"type": "event", "id": 3, "name": "storm"}


def nested(levels: int = 1000) -> list[Any]:
    """A list in a list in a list, deeper than Python's stack."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def problem(data: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        unpack_client(data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x80\x80",
        b"\x91" * 2000,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4type\xa2\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bytes_that_are_no_msgpack(data: bytes) -> None:
    assert problem(data).code == "not_msgpack"


@pytest.mark.parametrize("value", [1, "text", [1, 2], None, {1: 2}, {"params": {2: 3}}])
def test_values_that_are_no_map_of_text(value: Any) -> None:
    assert problem(msgpack.packb(value)).code == "not_map"


@pytest.mark.parametrize("value", [{}, {"type": 3}, {"type": "dance"}, {"type": ["event"]}])
def test_types_that_are_not_known(value: dict[str, Any]) -> None:
    assert problem(msgpack.packb(value)).code == "unknown_type"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"name": None}, "wrong_type", "event.name"),
        ({"name": ""}, "out_of_range", "event.name"),
        ({"name": "x" * 65}, "too_long", "64"),
        ({"name": "a\x00b"}, "out_of_range", "U+0000"),
        ({"params": {"intensity": [1]}}, "wrong_type", "event.params.intensity"),
        ({"params": {"intensity": float("inf")}}, "out_of_range", "finite"),
        ({"params": {"motto": "x" * 257}}, "too_long", "256"),
        ({"params": {f"p{i}": i for i in range(33)}}, "too_long", "32"),
        ({"params": [1]}, "wrong_type", "event.params"),
        ({"when": "later"}, "out_of_range", "'later'"),
        ({"client_ns": "now"}, "wrong_type", "event.client_ns"),
    ],
)
def test_a_wrong_field_is_named_with_value_and_rule(change: dict[str, Any], code: str, words: str) -> None:
    found = problem(msgpack.packb({**EVENT, **change}))
    assert (found.code, found.id, found.type) == (code, 3, "event")
    assert words in found.reason


@pytest.mark.parametrize("change", [{"type": nested()}, {"name": nested()}, {"params": {"intensity": nested()}}])
def test_a_field_nested_too_deep_to_print_is_named_like_any_other(change: dict[str, Any]) -> None:
    found = problem(msgpack.packb({**EVENT, **change}))
    assert found.id == 3 and "[[[" in found.reason and len(found.reason) < 150


@pytest.mark.parametrize("value", [0, -1, 2**63, True, 1.0, "1", None])
def test_an_id_that_is_none_is_not_given_back(value: Any) -> None:
    found = problem(msgpack.packb({**EVENT, "id": value}))
    assert found.id is None and found.code in ("wrong_type", "out_of_range")


def test_a_missing_field_is_named() -> None:
    found = problem(msgpack.packb({"type": "prompt", "id": 4}))
    assert (found.code, found.reason) == ("missing_field", "prompt.text: is missing")


@pytest.mark.parametrize(
    ("text", "code"),
    [("x" * 2001, "too_long"), ("", "out_of_range"), (" \u00a0", "out_of_range"), ("a\x7f", "out_of_range")],
)
def test_prompts_that_are_none(text: str, code: str) -> None:
    assert problem(msgpack.packb({"type": "prompt", "id": 1, "text": text})).code == code


def test_lengths_count_characters_not_bytes() -> None:
    read = unpack_client(msgpack.packb({"type": "prompt", "id": 1, "text": "🌊" * 2000}))
    assert isinstance(read, Prompt) and len(read.text) == 2000


def test_a_message_beyond_the_limit_is_not_parsed() -> None:
    found = problem(b"\xc1" * (protocol.MAX_MESSAGE_BYTES + 1))
    assert (found.code, found.id) == ("too_long", None)


def test_unknown_fields_are_ignored() -> None:
    assert unpack_client(msgpack.packb({**EVENT, "mood": "grim"})) == Event(id=3, name="storm")


def test_an_integer_is_taken_for_a_number_from_the_server() -> None:
    receipt = {"type": "receipt", "id": 1, "state": "applied", "order": 1, "latency_ms": 5}
    assert msgpack.unpackb(pack(unpack_server(msgpack.packb(receipt))))["latency_ms"] == 5


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        unpack_client(data)
    except MessageError as found:
        assert found.code and found.reason


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.sampled_from(["hello", "event", "prompt", "seen", "ping", "stats_request", "command", "bye"]),
    st.dictionaries(
        st.sampled_from(["id", "name", "text", "params", "when", "protocol", "client", "client_id", "frame"]), JSONISH
    ),
)
def test_no_values_break_the_reader(kind: str, fields: dict[str, Any]) -> None:
    try:
        unpack_client(msgpack.packb({"type": kind, **fields}))
    except MessageError as found:
        assert found.code and found.reason
