"""docs/performance.md: each program writes its own section, between two markers, and leaves the rest alone."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["machine", "verdict", "write_section"]


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`. Raises ValueError for a page that has none."""
    before, begins, rest = page.read_text().partition(f"<!-- {name}: made by the program -->\n")
    _, ends, after = rest.partition(f"<!-- {name}: end -->")
    if not (begins and ends):
        raise ValueError(f"{page} has no section {name!r}")
    page.write_text(f"{before}{begins}\n{text.strip()}\n\n{ends}{after}")


def machine(*services: str) -> str:
    """What the figures were made on, in a few words; `services` are names with versions."""
    cpus = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    model = next(cpus, f":{platform.machine()}").partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    parts = (
        f"{os.cpu_count()} cores ({model})",
        f"{memory:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *services,
    )
    return ", ".join(parts)


def verdict(met: bool | None) -> str:
    """The cell of a goal; empty where there is none to meet, or nothing was shown."""
    return {True: "yes", False: "**no**", None: ""}[met]
