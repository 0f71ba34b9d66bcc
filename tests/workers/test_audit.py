from __future__ import annotations

from pathlib import Path

import pytest

from workers.audit import audit_file, find_packages, render, summarise

SOURCE = '''"""Doc
string."""
# comment
import os


class A:
    """Doc."""

    def method(self, x):
        if x and os.name or x > 3:
            return [y for y in x if y]
        for y in x:
            try:
                pass
            except ValueError:
                pass
        def inner():
            return 1 if x else 2
        return inner


async def alone():
    match 1:
        case 1:
            pass
        case _:
            pass
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "top.py": "x = 1\n",
        "pkg/a.py": SOURCE,
        "pkg/tests/test_a.py": "def test(): pass\n",
        "pkg/__pycache__/a.py": "x = 1\n",
        ".hidden/a.py": "x = 1\n",
        "other/site-packages/b.py": "x = 1\n",
        "other/bad.py": "def (:\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "link.py").symlink_to(tmp_path / "top.py")
    return tmp_path


def test_packages_are_the_folders_below_the_root_without_what_is_not_source(tree: Path) -> None:
    found = {package.name: (len(package.files), len(package.tests)) for package in find_packages(tree)}
    assert found == {"(loose files)": (1, 0), "other": (1, 0), "pkg": (1, 1)}


def test_a_file_is_measured(tree: Path) -> None:
    audit = audit_file(tree / "pkg/a.py")
    assert audit.lines == SOURCE.count("\n")
    assert audit.classes == 1
    assert {function.name: function.complexity for function in audit.functions} == {
        "A.method": 1 + 1 + 2 + 2 + 1 + 1,  # if, and/or, comprehension with its if, for, except
        "A.method.inner": 2,
        "alone": 3,
    }
    blank, comments, docstrings = 5, 1, 3
    assert audit.code_lines == audit.lines - blank - comments - docstrings


def test_a_file_that_is_not_python_is_a_finding_and_no_error(tree: Path) -> None:
    audit = audit_file(tree / "other/bad.py")
    assert audit.problem is not None
    assert audit.problem.startswith("SyntaxError")
    assert audit.lines == 1


def test_a_file_in_an_unknown_encoding_is_a_finding_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_bytes(b"# -*- coding: klingon -*-\nx = 1\n")
    assert audit_file(tmp_path / "odd.py").problem is not None


def test_an_empty_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    assert audit_file(tmp_path / "empty.py").lines == 0


def test_the_report_adds_up_and_reads_well(tree: Path) -> None:
    audited = {
        package.name: [audit_file(path) for path in package.files + package.tests] for package in find_packages(tree)
    }
    report = summarise(tree, audited, tests_included=True, tests_left_out=0)
    assert report.files == sum(package.files for package in report.packages) == 4
    assert report.lines == sum(package.lines for package in report.packages)
    assert report.packages[0].name == "pkg"
    assert report.most_complex_functions[0].name == "A.method"
    assert [problem.file for problem in report.problems] == ["other/bad.py"]
    text = render(report)
    assert "4 files" in text
    assert "A.method" in text
    assert "other/bad.py" in text


def test_a_report_on_nothing_is_possible(tmp_path: Path) -> None:
    report = summarise(tmp_path, {}, tests_included=False, tests_left_out=3)
    assert report.mean_complexity == 0
    assert "without 3 test files" in render(report)
