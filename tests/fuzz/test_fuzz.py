"""Some hundreds of requests that are almost right: none breaks anything. `python -m tests.fuzz` sends more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import make, make_line
from tests.fuzz.site import Site, running_site
from tests.services import Services

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SOME = 8
"""Inputs of one example, sent side by side."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def site(services: Services, runner: asyncio.Runner) -> Iterator[Site]:
    url = services.create_database()
    opened = running_site(url, services.broker_url)
    try:
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))
    finally:
        services.drop_database(url)


def test_no_request_over_http_breaks_anything(site: Site, runner: asyncio.Runner) -> None:
    @FEW
    @given(st.randoms(use_true_random=False))
    def hold(rng: Random) -> None:
        assert not runner.run(site.problems(make(rng, site.material) for _ in range(SOME)))

    hold()
    assert not runner.run(site.broken())


def test_no_line_over_standard_input_breaks_anything(site: Site, runner: asyncio.Runner) -> None:
    @settings(FEW, max_examples=4)
    @given(st.randoms(use_true_random=False))
    def hold(rng: Random) -> None:
        assert not runner.run(site.line_problems([make_line(rng, site.material) for _ in range(SOME * 5)]))

    hold()
    assert not runner.run(site.broken())
