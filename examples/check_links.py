"""Check the links of a web site: an async tool that reports progress and asks before it leaves the site.

taskengine dev examples/check_links.py
taskengine call check_links url=https://example.org
"""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from typing import Annotated
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx2
from pydantic import BaseModel, Field

from taskengine import Context, TaskEngine, ToolError

engine = TaskEngine("links")


class Abroad(BaseModel):
    check: bool = Field(title="Check links to other sites as well?")


class Broken(BaseModel):
    page: str
    link: str
    why: str


class Report(BaseModel):
    pages: int
    links: int
    broken: list[Broken]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"a": "href", "img": "src", "link": "href", "script": "src"}.get(tag)
        self.found += [value for name, value in attrs if name == wanted and value]


def links_of(page: str, html: str) -> list[str]:
    """The addresses a page links to, whole and without fragments, each once."""
    parser = _Links()
    parser.feed(html)
    whole = (urldefrag(urljoin(page, link)).url for link in parser.found)
    return list(dict.fromkeys(link for link in whole if link.startswith(("http://", "https://"))))


@engine.tool(ttl="7d", timeout="2h")
async def check_links(
    url: Annotated[str, Field(description="Where to begin, such as https://example.org.")],
    ctx: Context,
    max_pages: Annotated[int, Field(ge=1, le=2000)] = 100,
) -> Report:
    """Follow the links of a web site and report those that lead nowhere."""
    if not url.startswith(("http://", "https://")):
        raise ToolError("Give a whole address that begins with http:// or https://.")
    site = urlsplit(url).netloc
    waiting, seen, abroad, broken = [url], {url}, {}, []
    pages = 0
    async with httpx2.AsyncClient(timeout=20, follow_redirects=True) as http:
        while waiting and pages < max_pages:
            page = waiting.pop(0)
            pages += 1
            await ctx.progress(pages, min(max_pages, pages + len(waiting)), page)
            why, html = await _read(http, page)
            if why is not None:
                broken.append(Broken(page=page, link=page, why=why))
                continue
            for link in links_of(page, html):
                if urlsplit(link).netloc != site:
                    abroad.setdefault(link, page)
                elif link not in seen:
                    seen.add(link)
                    waiting.append(link)
    # Asked at the end, after work that is done again when the answer comes: fine for reading, not for writing.
    if abroad:
        answer = await ctx.elicit(f"{len(abroad)} links lead to other sites.", Abroad)
        if answer.data is not None and answer.data.check:
            async with httpx2.AsyncClient(timeout=20, follow_redirects=True) as http:
                results = await asyncio.gather(*(_read(http, link) for link in abroad))
            for (link, page), (why, _) in zip(abroad.items(), results, strict=True):
                if why is not None:
                    broken.append(Broken(page=page, link=link, why=why))
    return Report(pages=pages, links=len(seen) + len(abroad), broken=broken)


async def _read(http: httpx2.AsyncClient, link: str) -> tuple[str | None, str]:
    """Why it cannot be read, and its text."""
    try:
        response = await http.get(link)
    except httpx2.HTTPError as error:
        return f"{type(error).__name__}: {error}", ""
    if response.status_code >= 400:
        return f"HTTP {response.status_code}", ""
    return None, response.text if "html" in response.headers.get("content-type", "") else ""
