"""On the path of a process whose clock is to be wrong: `time.time` is ahead by CHAOS_CLOCK_S seconds from the start."""

import os
import time

if "CHAOS_CLOCK_S" in os.environ:
    _ahead_s = float(os.environ["CHAOS_CLOCK_S"])
    _real = time.time
    time.time = lambda: _real() + _ahead_s
