"""The `taskengine` command: one file per command; what they share is in `screen` and `stack`.

Exit codes: 0 done, 1 failed, 2 wrong usage, settings or target; of commands that follow a task also 3 cancelled, 4
waiting for input, 130 left by Ctrl-C. An expected error is one line each on standard error, never a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskengine.cli.app import app
from taskengine.cli.screen import complain
from taskengine.errors import DeclarationError, EngineError, SettingsError

__all__ = ["main"]

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    try:
        app(args=arguments, prog_name="taskengine")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE
    except (SettingsError, DeclarationError) as error:
        complain(str(error))
        return USAGE
    except EngineError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return 128 + 2
    return DONE
