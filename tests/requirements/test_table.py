"""Every requirement is held by a test, or says why it is not: `table/*.toml` against the published list.

An entry is a list of what would fail if the rule were broken:

- `tests/path.py::test_name`, or `tests/path.py::test_name[id]` for one of its cases;
- `scenario:name`, one of the official suite that passes (`make conformance`);
- `L-TASK-01`, another requirement, whose tests show this one too;
- `conformance/file`, for how the suite is run.

Or it is a text: why there is none, which begins with one of `REASONS`.
"""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from conformance.suite import ALWAYS_SKIPPED, BY_THEMSELVES, EXPECTED
from tests.processes import ROOT
from tests.wire.schemas import FOLDER

TABLE = Path(__file__).parent / "table"
PUBLISHED = FOLDER / "requirements.md"
ROW = re.compile(r"^\| ([LMXADC]-[A-Z0-9-]+) \|", re.MULTILINE)
REQUIREMENT = re.compile(r"[LMXADC]-[A-Z0-9-]+")
REASONS = {
    "Tools only": "the server has neither prompts nor resources",
    "Not offered": "nothing the rule applies to is there",
    "The application's": "only who writes the tools can keep it",
}
Entry = list[str] | str


def read_table() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for path in sorted(TABLE.glob("*.toml")):
        for requirement, entry in tomllib.loads(path.read_text()).items():
            assert requirement not in table, f"{requirement} stands in {path.name} and in another file"
            table[requirement] = entry
    return table


ENTRIES = read_table()


def published() -> str:
    if not PUBLISHED.is_file():
        pytest.skip(f"the published requirements are not in {FOLDER.name}/ beside the repository")
    return PUBLISHED.read_text()


@cache
def functions_in(path: str) -> dict[str, set[str]]:
    """The tests of a file, each with the ids of its cases as far as these are written as plain values."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.parse((ROOT / path).read_text()).body
    return {node.name: cases(node) for node in nodes if isinstance(node, functions) and node.name.startswith("test_")}


def cases(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    parts: list[list[str]] = []
    for decorator in reversed(function.decorator_list):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.parametrize":
            values = decorator.args[1]
            parts.append([identify(each) for each in values.elts] if isinstance(values, (ast.List, ast.Tuple)) else [])
    return {"-".join(each) for each in itertools.product(*parts)} if parts else set()


def identify(case: ast.expr) -> str:
    """As pytest calls it; what has no name of its own gives one that no entry can name."""
    members = case.elts if isinstance(case, ast.Tuple) else [case]
    return "-".join(plain(member) for member in members)


def plain(member: ast.expr) -> str:
    try:
        value = ast.literal_eval(member)
    except ValueError:
        return "?"
    return str(value) if value is None or isinstance(value, (str, int, float)) else "?"


def trouble_with(reference: str) -> str | None:
    """Why a reference holds nothing."""
    if reference.startswith("scenario:"):
        return trouble_with_scenario(reference.removeprefix("scenario:"))
    if REQUIREMENT.fullmatch(reference):
        return None if isinstance(ENTRIES.get(reference), list) else f"{reference} is held by no test itself"
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return f"there is no file {path}"
    if not name:
        return None if path.startswith("conformance/") else f"{reference} names no test"
    function, _, case = name.partition("[")
    found = functions_in(path)
    if function not in found:
        return f"there is no {function} in {path}"
    if case and case.removesuffix("]") not in found[function]:
        return f"{function} has no case {case.removesuffix(']')}"
    return None


@cache
def trouble_with_scenario(name: str) -> str | None:
    """One that is run by itself is judged by itself; of the required ones those count that are not expected to fail."""
    if name in ALWAYS_SKIPPED:
        return f"the suite always skips {name}"
    expected = {entry for path in EXPECTED.values() for entry in yaml.safe_load(path.read_text())["server"]}
    if name in expected:
        return f"{name} is expected to fail"
    short = name.removeprefix("input-required-result")  # as the list has them, after the first of a row
    if name in BY_THEMSELVES or not PUBLISHED.is_file() or re.search(rf"{re.escape(short)}\b", published()):
        return None
    return f"there is no scenario {name}"


def test_every_published_requirement_has_its_entry_and_no_other_has() -> None:
    rows = [match.group(1) for match in ROW.finditer(published())]
    assert len(rows) == len(set(rows)) > 500
    assert set(rows) - set(ENTRIES) == set(), "without an entry in tests/requirements/table"
    assert set(ENTRIES) - set(rows) == set(), "not in the published list"


@pytest.mark.parametrize("path", sorted(TABLE.glob("*.toml")), ids=lambda path: path.stem)
def test_what_holds_a_requirement_is_there(path: Path) -> None:
    trouble: list[str] = []
    for requirement, entry in tomllib.loads(path.read_text()).items():
        if isinstance(entry, list):
            assert entry, requirement
            trouble += [f"{requirement}: {found}" for reference in entry if (found := trouble_with(reference))]
    assert trouble == []


def test_what_is_left_out_says_why() -> None:
    for requirement, entry in ENTRIES.items():
        if isinstance(entry, str):
            kind, _, why = entry.partition(": ")
            assert kind in REASONS, f"{requirement}: {entry}"
            assert len(why) > 10, f"{requirement}: {entry}"


def test_an_entry_that_holds_nothing_is_found() -> None:
    here = "tests/requirements/test_table.py"
    wrong: list[Any] = [
        "tests/nowhere.py::test_x",
        f"{here}::test_nothing",
        here,
        f"{here}::test_what_holds_a_requirement_is_there[nonsense]",
        "scenario:resources-list",
        "scenario:tasks-status-notifications",
        "M-TOOL-04",
        "L-TASK-999",
    ]
    assert [each for each in wrong if trouble_with(each) is None] == []
    right = ["tests/wire/test_modern.py::test_every_code_has_its_http_status", "scenario:tasks-lifecycle", "L-TASK-01"]
    assert [each for each in right if trouble_with(each)] == []
