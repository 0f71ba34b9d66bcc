"""The examples do what they say."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import httpx2
import pytest

from taskengine.target import load_target
from taskengine.testing import call
from tests.processes import ROOT

EXAMPLES = ROOT / "examples"

PAGES = {
    "/": '<a href="/good">1</a> <a href="/bad#x">2</a> <a href="http://abroad.test/gone">3</a>',
    "/good": '<a href="/">back</a>',
}


async def test_broken_links_are_found_at_home_and_abroad(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        page = PAGES.get(request.url.path) if request.url.host == "site.test" else None
        return httpx2.Response(404) if page is None else httpx2.Response(200, html=page)

    whole = httpx2.AsyncClient

    def client(**options: object) -> httpx2.AsyncClient:
        return whole(transport=httpx2.MockTransport(answer))

    monkeypatch.setattr("httpx2.AsyncClient", client)
    engine = load_target(f"{EXAMPLES / 'check_links.py'}:engine")
    run = await call(engine, "check_links", {"url": "http://site.test/"})
    assert run.status == "input_required"
    await run.answer({"1 links lead to other sites.": {"check": True}})
    assert [broken["link"] for broken in run.structured["broken"]] == [
        "http://site.test/bad",
        "http://abroad.test/gone",
    ]
    assert run.structured["pages"] == 3


async def test_a_table_is_described_by_the_columns_that_were_chosen(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name,size\na,1\nb,3\nc,\n")
    engine = load_target(f"{EXAMPLES / 'describe_table.py'}:engine")
    answers = {"Which columns shall be described?": {"columns": ["size"]}}
    run = await call(engine, "describe_table", {"path": str(file)}, answers=answers)
    (column,) = run.structured["columns"]
    assert run.structured["rows"] == 3
    assert (column["filled"], column["least"], column["greatest"], column["mean"]) == (2, 1, 3, 2)
    assert (await call(engine, "describe_table", {"path": "nowhere"})).is_error


async def test_an_archive_is_whole_and_replaced_only_when_wanted(tmp_path: Path) -> None:
    folder, archive = tmp_path / "in", tmp_path / "out.tar.gz"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    engine = load_target(f"{EXAMPLES / 'archive_folder.py'}:engine")
    arguments = {"folder": str(folder), "archive": str(archive)}
    run = await call(engine, "archive_folder", arguments)
    assert run.structured["files"] == 1
    assert run.structured["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    with tarfile.open(archive) as packed:
        assert packed.getnames() == ["a.txt"]
    kept = archive.read_bytes()
    run = await call(engine, "archive_folder", arguments, answers={f"{archive} exists.": {"replace": False}})
    assert run.is_error
    assert archive.read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.tar.gz"]
