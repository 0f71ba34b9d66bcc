"""What we give out sealed and take back (states, session ids, cursors) is good for one purpose, one owner and a time,
and only as it is."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet

from taskengine.server import create_app
from taskengine.server.legacy.tokens import Tokens
from taskengine.server.request_state import RequestState, RequestStateError, Sealer
from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy.peer import Peer
from tests.server.peer import front_end, peer_of
from tests.server.tools import engine

SECRET = "s" * 40


def sealer(ttl: timedelta = timedelta(hours=1)) -> Sealer:
    async def never() -> bytes:
        raise AssertionError("the setting has the key")

    return Sealer(Settings(secret=SECRET, request_state_ttl=ttl), never)


def spoilt(token: str) -> list[str]:
    middle = len(token) // 2
    other = "A" if token[middle] != "A" else "B"
    return [
        "",
        token[:-1],
        token[1:],
        token + "A",
        token + "=",
        token + "\n",
        f" {token}",
        token[:middle] + other + token[middle + 1 :],
        token.swapcase(),
        token + token,
        "é" + token,
        "\ud800",
        "\0",
    ]


async def test_a_state_opens_only_as_it_was_sealed() -> None:
    seals = sealer()
    token = await seals.seal(RequestState("ann", "digest"))
    assert (await seals.open(token, "ann", "digest")).owner == "ann"
    for changed in spoilt(token):
        with pytest.raises(RequestStateError, match="start again"):
            await seals.open(changed, "ann", "digest")


async def test_a_state_is_for_one_owner_and_one_call() -> None:
    seals = sealer()
    token = await seals.seal(RequestState("ann", "digest"))
    for owner, digest in (("ben", "digest"), ("ann", "another"), ("", "")):
        with pytest.raises(RequestStateError, match="another call"):
            await seals.open(token, owner, digest)


@pytest.mark.parametrize("seconds", [-3601, 7200], ids=["too old", "of the future"])
async def test_a_state_has_its_time(seconds: int) -> None:
    seals = sealer()
    await seals.prepare()
    assert seals._fernet is not None
    text = json.dumps({"owner": "ann", "digest": "digest"}).encode()
    token = seals._fernet.encrypt_at_time(text, int(time.time()) + seconds).decode()
    with pytest.raises(RequestStateError, match="too old"):
        await seals.open(token, "ann", "digest")


async def test_what_was_sealed_for_one_purpose_or_by_another_key_opens_for_no_other() -> None:
    seals = sealer()
    tokens = Tokens(seals)
    await tokens.prepare()
    session = tokens.seal("session", i="x", v="2025-11-25", c={}, o="ann")
    assert tokens.open(session, "session")["o"] == "ann"
    state = await seals.seal(RequestState("ann", "digest"))
    foreign = Fernet(Fernet.generate_key()).encrypt(b"{}").decode()
    for given, kinds in ((session, ("cursor", "listen")), (state, ("session",)), (foreign, ("session",))):
        with pytest.raises(ValueError):
            tokens.open(given, *kinds)
    with pytest.raises(RequestStateError):
        await seals.open(session, "ann", "digest")
    for changed in spoilt(session):
        with pytest.raises(ValueError):
            tokens.open(changed, "session")


async def test_a_cursor_is_refused_when_it_is_too_old_changed_or_of_another_kind(
    settings: Settings, store: Store
) -> None:
    own = settings.model_copy(update={"request_state_ttl": timedelta(hours=1)})
    app = create_app(engine, own)
    async with front_end(app) as running, peer_of(running) as plain:
        peer = Peer(running.url, plain.http)
        await peer.initialize()
        tokens = Tokens(app.state.service.sealer)
        await tokens.prepare()
        assert tokens._box is not None
        facts = {"kind": "cursor", "o": "anonymous", "c": "2026-01-01T00:00:00+00:00", "i": "tsk_x"}

        def made(age_s: int, **changes: str) -> str:
            text = json.dumps(facts | changes).encode()
            assert tokens._box is not None
            return tokens._box.encrypt_at_time(text, int(time.time()) - age_s).decode()

        assert (await peer.send("tasks/list", {"cursor": made(0)})).result["tasks"] == []
        refused = [made(7200), made(0, o="ben"), made(0, kind="session"), peer.session or "", *spoilt(made(0))[:11]]
        for cursor in refused:
            error = (await peer.send("tasks/list", {"cursor": cursor})).error
            assert error["code"] == -32602
            assert "cursor" in error["message"]
