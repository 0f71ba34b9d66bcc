"""The short form of `python -m tests.chaos.crowd`."""

from __future__ import annotations

import pytest

from tests.chaos import crowd


def test_a_crowd_that_waits_holds_no_worker_and_all_of_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert crowd.main(["--size", "100", "--night", "15"]) == 0, capsys.readouterr().out
