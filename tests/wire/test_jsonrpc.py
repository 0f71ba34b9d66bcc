"""Messages in and out (requirements 1.2, and the rows on bodies of 1.5)."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from taskengine.wire.jsonrpc import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    Notification,
    Request,
    Response,
    RpcError,
    dumps,
    error_response,
    id_of,
    parse,
    raw,
    result_response,
)


def refused(body: bytes) -> RpcError:
    with pytest.raises(RpcError) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize("request_id", ["1", 1, "a b", 0, -7, ""])
def test_a_request_keeps_its_id_with_value_and_type(request_id: str | int) -> None:
    body = dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/list", "params": {"a": 1}})
    message = parse(body)
    assert message == Request(request_id, "tools/list", {"a": 1})
    assert type(result_response(message.id, {})["id"]) is type(request_id)


@pytest.mark.parametrize("bad_id", ["null", "1.5", "true", "[1]", "{}", "1e400"])
def test_an_id_that_is_neither_string_nor_integer_is_refused(bad_id: str) -> None:
    error = refused(f'{{"jsonrpc":"2.0","id":{bad_id},"method":"ping"}}'.encode())
    assert error.code in (-32600, -32700)
    assert id_of(error) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"jsonrpc": "2.0",}', b"\xff\xfe", b'{"a": "\\ud800"}', b"NaN", b"[" * 2000 + b"]" * 2000]
)
def test_what_is_not_json_is_a_parse_error_without_id(body: bytes) -> None:
    error = refused(body)
    assert error.code == -32700
    assert "id" not in error_response(id_of(error), error)


@pytest.mark.parametrize("body", [b"[]", b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', b"1", b'"x"', b"null"])
def test_a_batch_and_what_is_no_object_are_invalid(body: bytes) -> None:
    assert refused(body).code == -32600


def test_a_message_nested_too_deeply_is_refused_with_its_id() -> None:
    def nested(levels: int) -> bytes:
        return f'{{"jsonrpc":"2.0","id":7,"method":"m","params":{{"a":{"[" * levels}{"]" * levels}}}}}'.encode()

    assert parse(nested(MAX_DEPTH - 2)) == parse(nested(MAX_DEPTH - 2))
    error = refused(nested(MAX_DEPTH - 1))
    assert (error.code, id_of(error)) == (-32600, 7)
    assert str(MAX_DEPTH) in error.message
    wide = b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":[' + b"[]," * 5000 + b"[]]}}"
    assert isinstance(parse(wide), Request)


def test_numbers_past_64_bits_and_deep_nesting_are_written() -> None:
    deep: list[object] = []
    for _ in range(400):
        deep = [deep]
    value = {"n": 2**70, "deep": deep, "mapping": MappingProxyType({"a": 1}), "ü": "ü"}
    assert json.loads(dumps(value)) == {**value, "mapping": {"a": 1}}


@pytest.mark.parametrize("value", [{"n": 2**70, "x": object()}, {"n": 2**70, "x": float("nan")}, "\ud800", {1j: 1}])
def test_what_has_no_json_form_is_one_kind_of_error(value: object) -> None:
    with pytest.raises(TypeError):
        dumps(value)


def test_an_invalid_message_with_a_readable_id_is_answered_with_it() -> None:
    error = refused(b'{"id": 7, "method": "ping"}')
    assert error_response(id_of(error), error)["id"] == 7
    error = refused(b'{"jsonrpc": "2.0", "id": "x", "method": 5}')
    assert error_response(id_of(error), error) == {
        "jsonrpc": "2.0",
        "id": "x",
        "error": {"code": -32600, "message": "A request names its method as a string"},
    }


def test_a_message_without_id_is_a_notification_and_one_without_method_a_response() -> None:
    assert parse(b'{"jsonrpc":"2.0","method":"notifications/cancelled"}') == Notification("notifications/cancelled")
    assert isinstance(parse(b'{"jsonrpc":"2.0","id":1,"result":{}}'), Response)
    assert isinstance(parse(b'{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}'), Response)
    assert refused(b'{"jsonrpc":"2.0","method":"m","params":[]}').code == -32600


def test_params_that_are_no_object_are_left_to_the_envelope_check() -> None:
    message = parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}')
    assert isinstance(message, Request)
    assert message.params is None


def test_stored_json_text_is_embedded_as_it_is() -> None:
    text = '{"content":[{"type":"text","text":"ä\\n"}],"n":1.50}'
    assert dumps(result_response(1, {"result": raw(text)})) == (
        b'{"jsonrpc":"2.0","id":1,"result":{"result":' + text.encode() + b"}}"
    )


def test_a_body_stands_on_one_line() -> None:
    assert b"\n" not in dumps({"text": "two\nlines"})


def message_with(values: str) -> bytes:
    return f'{{"jsonrpc": "2.0", "id": 1, "method": "m", "params": {{"values": {values}}}}}'.encode()


def test_objects_and_arrays_are_counted_before_they_are_read_and_those_in_strings_do_not_count() -> None:
    most = MAX_CONTAINERS - 3
    message = parse(message_with(f"[{','.join(['[]'] * most)}]"))
    assert isinstance(message, Request)
    assert str(MAX_CONTAINERS) in refused(message_with(f"[{','.join(['[]'] * (most + 1))}]")).message
    text = '{["' * MAX_CONTAINERS + "\\"
    assert parse(message_with(json.dumps(text))).params == {"values": text}


@pytest.mark.parametrize(
    "tail",
    [b'\\"' * 1_000_000, b'\\"' * 1_000_000 + b"\\", b'"a' * 1_000_001],
    ids=["escaped quotes", "a last backslash", "quotes"],
)
def test_strings_without_an_end_take_no_longer(tail: bytes) -> None:
    """Nobody would wait for the end of this where the way through the body begins anew at every quote."""
    assert "JSON" in refused(b'"' + b"[" * (MAX_CONTAINERS + 1) + tail).message
