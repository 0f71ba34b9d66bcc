"""Which revision's rules a message is under (requirements 1.1)."""

from __future__ import annotations

from typing import Any

import pytest

from taskengine.wire import modern
from taskengine.wire.jsonrpc import Notification, Request, Response
from taskengine.wire.selection import Wire, select

MARKED = {"_meta": {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}}}


@pytest.mark.parametrize("headers", [[], ["2025-11-25"], ["2026-07-28"], ["nonsense"]])
@pytest.mark.parametrize("method", ["initialize", "ping", "tools/call"])
def test_a_request_with_the_envelope_is_modern_whatever_its_header(method: str, headers: list[str]) -> None:
    assert select(Request(1, method, MARKED), headers) is Wire.MODERN


@pytest.mark.parametrize("params", [None, {}, {"_meta": {}}, {"_meta": 5}])
def test_a_request_without_it_goes_by_its_header(params: dict[str, Any] | None) -> None:
    request = Request(1, "server/discover", params)
    assert select(request, ["2026-07-28"]) is Wire.MODERN
    assert select(request, ["v999"]) is Wire.MODERN
    assert select(request, ["2025-11-25", "v999"]) is Wire.MODERN
    assert select(request, []) is Wire.LEGACY
    assert select(request, ["2025-11-25"]) is Wire.LEGACY
    assert select(request, ["2025-06-18"]) is Wire.LEGACY


@pytest.mark.parametrize("message", [Notification("notifications/cancelled", MARKED), Response(1, {})])
def test_notifications_and_responses_go_by_their_header_alone(message: Notification | Response) -> None:
    assert select(message, ["2026-07-28"]) is Wire.MODERN
    assert select(message, []) is Wire.LEGACY
    assert select(message, ["2025-11-25"]) is Wire.LEGACY
    assert select(message, ["v999"]) is Wire.LEGACY
