"""`python -m taskengine` is the `taskengine` command."""

from __future__ import annotations

import sys

from taskengine.cli import main

if __name__ == "__main__":
    sys.exit(main())
