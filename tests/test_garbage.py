"""The collector of a process that has told it what stays."""

from __future__ import annotations

import subprocess
import sys

LOOKS = """
import gc
from taskengine.garbage import spare_what_stays

kept = [[] for _ in range(1000)]
spare_what_stays()
assert gc.get_freeze_count() >= 1000
assert not any(each is kept for each in gc.get_objects())


class Round:
    pass


gone = Round()
gone.itself = gone
del gone
gc.collect()
assert not any(isinstance(each, Round) for each in gc.get_objects())
"""


def test_what_stays_is_not_looked_at_again_and_what_goes_round_in_circles_is_found() -> None:
    subprocess.run([sys.executable, "-c", LOOKS], check=True)
