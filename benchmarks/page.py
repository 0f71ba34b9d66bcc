"""docs/performance.md: each program writes its own section, between two markers, and leaves the rest alone."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["machine", "write_section"]


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`. Raises ValueError for a page that has none."""
    before, begins, rest = page.read_text().partition(f"<!-- {name}: made by the program -->\n")
    _, ends, after = rest.partition(f"<!-- {name}: end -->")
    if not (begins and ends):
        raise ValueError(f"{page} has no section {name!r}")
    page.write_text(f"{before}{begins}\n{text.strip()}\n\n{ends}{after}")


def machine() -> str:
    """What the figures were made on, in a few words."""
    cpus = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    model = next(cpus, f":{platform.machine()}").partition(":")[2].strip()
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}"
