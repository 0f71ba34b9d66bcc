"""From the TARGET of a command (`file.py:engine` or `package.module:engine`) to the engine it names.

The name after the colon may be left out when it is `engine`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from taskengine.engine import TaskEngine
from taskengine.errors import DeclarationError, SettingsError

__all__ = ["absolute", "load_target", "source_folder"]

DEFAULT_NAME = "engine"


def load_target(target: str) -> TaskEngine:
    """The engine, imported once per process: a second call for the same target returns the same object.

    Raises SettingsError when the target names nothing (no file, no module, no engine by that name), and
    DeclarationError when its code raised while it was imported; both say where and what.
    """
    place, name = _split(target)
    try:
        module = _load_file(Path(place)) if _is_file(place) else _load_module(place)
    except (DeclarationError, SettingsError):
        raise
    except (Exception, SystemExit) as error:
        where = _where(error)
        raise DeclarationError(f"{target}: importing it raised {type(error).__name__}: {error}{where}") from error
    try:
        found = getattr(module, name)
    except AttributeError:
        engines = sorted(key for key, value in vars(module).items() if isinstance(value, TaskEngine))
        hint = f"it has {', '.join(engines)}" if engines else "it has no TaskEngine at all: add engine = TaskEngine(…)"
        raise SettingsError(f"{target}: {place} has nothing named {name!r}; {hint}") from None
    if not isinstance(found, TaskEngine):
        raise SettingsError(f"{target}: {name!r} is a {type(found).__name__}, not a TaskEngine")
    return found


def source_folder(target: str) -> Path:
    """The folder to watch for changes of the target's code: the file's own, or the current one for a module."""
    place, _ = _split(target)
    return Path(place).resolve().parent if _is_file(place) else Path.cwd()


def absolute(target: str) -> str:
    """The same engine, named in a way that holds in every folder; a module stays as it is."""
    place, name = _split(target)
    return f"{Path(place).resolve()}:{name}" if _is_file(place) else f"{place}:{name}"


def _split(target: str) -> tuple[str, str]:
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    if target.count(":") == 1 and not name:
        name = DEFAULT_NAME
    name = name or DEFAULT_NAME
    if not place or not name.isidentifier():
        raise SettingsError(f"{target!r} is not a target: write file.py:engine or package.module:engine")
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise SettingsError(f"{path} is not a file: the target names the Python file that holds the engine")
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"  # never hides a module of the same name
    if name in sys.modules:
        return sys.modules[name]
    _importable_from(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} is not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: pydantic and dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    _importable_from(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there; something it imports is not
        hint = f"; is it the file {name}.py?" if Path(f"{name}.py").is_file() else ""
        raise SettingsError(
            f"there is no module {name!r} in {Path.cwd()} or among the installed packages{hint}"
        ) from None


def _importable_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _where(error: BaseException) -> str:
    """The last line of somebody else's code the exception came through."""
    own = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    foreign = [frame for frame in frames if not frame.filename.startswith(own) and "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    return f" ({foreign[-1].filename}, line {foreign[-1].lineno})" if foreign else ""
