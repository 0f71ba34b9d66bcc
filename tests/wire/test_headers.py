"""Mirrored headers (requirements 1.7)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from taskengine.schema import HeaderParameter
from taskengine.wire.headers import check_parameters, check_routing
from taskengine.wire.jsonrpc import Request, RpcError

REGION = HeaderParameter("Region", ("region",), "string")
COUNT = HeaderParameter("Count", ("size", "count"), "integer")
DRY = HeaderParameter("Dry", ("dry",), "boolean")

LIST = Request(1, "tools/list", {})
CALL = Request(1, "tools/call", {"name": "greet"})
GET = Request(1, "tasks/get", {"taskId": "tsk_1"})
ROUTED = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}


def pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def routing(request: Request, *extra: tuple[bytes, bytes], **headers: str | None) -> None:
    named = {"mcp-protocol-version": "2026-07-28", "mcp-method": request.method}
    named |= {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    kept = {name: value for name, value in named.items() if headers.get(name.replace("-", "_"), "") is not None}
    check_routing([*pairs(kept), *extra], request, "2026-07-28")


def refused(request: Request, *extra: tuple[bytes, bytes], **headers: str | None) -> str:
    with pytest.raises(RpcError) as caught:
        routing(request, *extra, **headers)
    assert caught.value.code == -32020
    return caught.value.message


def parameters(arguments: Mapping[str, Any], *found: HeaderParameter, **headers: str) -> None:
    named = {f"mcp-param-{name}": value for name, value in headers.items()}
    check_parameters(pairs(named), found or (REGION,), arguments)


def parameter_refused(arguments: Mapping[str, Any], *found: HeaderParameter, **headers: str) -> str:
    with pytest.raises(RpcError) as caught:
        parameters(arguments, *found, **headers)
    assert caught.value.code == -32020
    return caught.value.message


def test_headers_that_repeat_the_body_are_accepted() -> None:
    routing(LIST)
    routing(CALL, mcp_name="greet")
    routing(GET, mcp_name="tsk_1")


@pytest.mark.parametrize("name", ["mcp_protocol_version", "mcp_method"])
def test_a_missing_or_different_routing_header_is_refused(name: str) -> None:
    assert "missing" in refused(LIST, **{name: None})
    assert "differs" in refused(LIST, **{name: "2025-11-25"})


@pytest.mark.parametrize("request_", [CALL, GET, Request(1, "tasks/update", {"taskId": "tsk_1"})])
def test_a_missing_or_different_name_is_refused(request_: Request) -> None:
    assert "Mcp-Name is missing" in refused(request_)
    assert "Mcp-Name differs" in refused(request_, mcp_name="other")


def test_a_name_is_not_demanded_where_there_is_no_source_for_it() -> None:
    routing(Request(1, "tasks/result", {"taskId": "tsk_1"}))
    routing(Request(1, "tasks/list", {}))
    routing(Request(1, "unknown/method", {}))
    routing(Request(1, "tools/call", {}))
    assert "not text" in refused(Request(1, "tools/call", {"name": 5}), mcp_name="5")


def test_header_names_ignore_case_and_values_do_not() -> None:
    check_routing([(b"MCP-PROTOCOL-VERSION", b"2026-07-28"), (b"mCP-mETHOD", b"tools/list")], LIST, "2026-07-28")
    refused(LIST, mcp_method="TOOLS/LIST")


def test_blanks_around_a_value_are_dropped() -> None:
    routing(LIST, mcp_method=" \ttools/list \t")


def test_a_repeated_routing_header_is_refused() -> None:
    assert "more than once" in refused(LIST, (b"mcp-method", b"tools/list"))
    assert "more than once" in refused(CALL, (b"Mcp-Name", b"greet"), mcp_name="greet")


def test_an_encoded_name_is_decoded_before_it_is_compared() -> None:
    unusual = Request(1, "tools/call", {"name": "grüße "})
    routing(unusual, mcp_name=f"=?base64?{base64.b64encode('grüße '.encode()).decode()}?=")
    assert "characters" in refused(unusual, mcp_name="grüße ")


@pytest.mark.parametrize("broken", ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?/w==?="])
def test_broken_base64_is_refused(broken: str) -> None:
    assert "Base64" in parameter_refused({"region": "Hello"}, region=broken)


@pytest.mark.parametrize("literal", ["SGVsbG8=", "=?base64?SGVsbG8=", "SGVsbG8=?=", "=?BASE64?SGVsbG8=?="])
def test_values_without_the_exact_markers_are_literal(literal: str) -> None:
    parameters({"region": literal}, region=literal)
    parameter_refused({"region": "Hello"}, region=literal)


def test_each_annotated_argument_needs_its_header() -> None:
    parameters({"region": "eu"}, region="eu")
    parameters({"region": "Hello"}, region="=?base64?SGVsbG8=?=")
    parameters({"region": ""}, region="")
    assert "missing" in parameter_refused({"region": "eu"})
    assert "differs" in parameter_refused({"region": "eu"}, region="EU")


@pytest.mark.parametrize("arguments", [{}, {"region": None}])
def test_an_absent_argument_has_no_header(arguments: dict[str, Any]) -> None:
    parameters(arguments)
    assert "is not" in parameter_refused(arguments, region="eu")


@pytest.mark.parametrize("text", ["42", "42.0", "=?base64?NDI=?="])
def test_integers_are_compared_as_numbers(text: str) -> None:
    parameters({"size": {"count": 42}}, COUNT, count=text)


@pytest.mark.parametrize("text", ["43", "42.5", "fortytwo", "", "0x2a", "4e1000000000", "NaN"])
def test_another_number_or_no_number_is_refused(text: str) -> None:
    parameter_refused({"size": {"count": 42}}, COUNT, count=text)


def test_booleans_are_true_or_false() -> None:
    parameters({"dry": True}, DRY, dry="true")
    parameters({"dry": False}, DRY, dry="false")
    parameter_refused({"dry": True}, DRY, dry="True")


def test_unknown_parameter_headers_are_ignored_and_known_ones_may_not_be_repeated() -> None:
    parameters({"region": "eu"}, region="eu", other="x")
    twice = [(b"mcp-param-region", b"eu"), (b"Mcp-Param-Region", b"eu")]
    with pytest.raises(RpcError, match="more than once"):
        check_parameters(twice, (REGION,), {"region": "eu"})


def test_control_characters_are_refused() -> None:
    with pytest.raises(RpcError, match="characters"):
        check_parameters([(b"mcp-param-region", b"e\x01u")], (REGION,), {"region": "e\x01u"})
