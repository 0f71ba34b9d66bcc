"""Measures a tree of Python source: size, functions, classes and cyclomatic complexity, package by package.

Pure: it reads files and knows nothing of tasks. `workers.demo` makes a tool of it.
"""

from __future__ import annotations

import ast
import io
import os
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

__all__ = ["AuditReport", "FileAudit", "Package", "audit_file", "find_packages", "render", "summarise"]

LARGEST_FILE_BYTES = 8 << 20
TOP = 10
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules", "venv"}
_TEST_FOLDERS = {"test", "tests", "testing", "idle_test"}
_LOOSE = "(loose files)"
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Package:
    """A folder directly below the root with everything in it, or the files that lie in the root itself."""

    name: str
    files: tuple[Path, ...]
    tests: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FunctionAudit:
    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True, slots=True)
class FileAudit:
    """`problem` says why a file could not be parsed; its lines count all the same."""

    path: Path
    lines: int
    code_lines: int
    classes: int
    functions: tuple[FunctionAudit, ...]
    problem: str | None = None


class FunctionLine(BaseModel):
    """One function in a ranking."""

    name: str
    file: str = Field(description="Relative to the root.")
    line: int
    lines: int
    complexity: int = Field(description="Cyclomatic complexity: independent ways through the function.")


class FileLine(BaseModel):
    """One file in a ranking."""

    file: str = Field(description="Relative to the root.")
    lines: int
    functions: int
    complexity: int = Field(description="Sum over its functions.")


class PackageLine(BaseModel):
    """One package."""

    name: str
    files: int
    lines: int
    code_lines: int = Field(description="Lines that are neither blank, nor comment, nor docstring.")
    functions: int
    classes: int
    mean_complexity: float
    worst: FunctionLine | None = Field(description="Its most complex function.")


class Problem(BaseModel):
    """A file that could not be read as Python."""

    file: str
    reason: str


class AuditReport(BaseModel):
    """What an audit found."""

    root: str
    tests_included: bool
    tests_left_out: int = Field(description="Number of test files that were not read.")
    files: int
    lines: int
    code_lines: int
    functions: int
    classes: int
    mean_complexity: float
    packages: list[PackageLine] = Field(description="Largest first.")
    longest_files: list[FileLine]
    most_complex_files: list[FileLine]
    longest_functions: list[FunctionLine]
    most_complex_functions: list[FunctionLine]
    problems: list[Problem]


def find_packages(root: Path) -> list[Package]:
    """The packages below `root` by name, without hidden folders, caches, installed packages and symbolic links."""
    found: dict[str, list[Path]] = {}
    for path in _python_files(root):
        parts = path.relative_to(root).parts
        found.setdefault(parts[0] if len(parts) > 1 else _LOOSE, []).append(path)
    return [
        Package(
            name,
            tuple(path for path in paths if not _is_test(path.relative_to(root))),
            tuple(path for path in paths if _is_test(path.relative_to(root))),
        )
        for name, paths in sorted(found.items())
    ]


def audit_file(path: Path) -> FileAudit:
    """The measures of one file. A file that is not valid Python has a `problem`; only the system's errors raise."""
    source = path.read_bytes()
    if len(source) > LARGEST_FILE_BYTES:
        return FileAudit(path, source.count(b"\n"), 0, 0, (), f"larger than {LARGEST_FILE_BYTES >> 20} MiB")
    try:
        text = _decode(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the audited code, not about ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        lines = source.count(b"\n") + (not source.endswith(b"\n"))
        reason = f"{error.msg}, line {error.lineno}" if isinstance(error, SyntaxError) else str(error)
        return FileAudit(path, lines, 0, 0, (), f"{type(error).__name__}: {reason}")
    lines_of_text = text.splitlines()
    functions, classes, docstrings = _measure(tree)
    code_lines = sum(
        1
        for number, line in enumerate(lines_of_text, start=1)
        if number not in docstrings and (content := line.strip()) and not content.startswith("#")
    )
    return FileAudit(path, len(lines_of_text), code_lines, classes, tuple(functions))


def summarise(
    root: Path, packages: Mapping[str, Sequence[FileAudit]], *, tests_included: bool, tests_left_out: int
) -> AuditReport:
    """The report over all audited files, grouped as in `packages`."""
    files = [file for audited in packages.values() for file in audited]
    functions = [(file, function) for file in files for function in file.functions]
    by_length = sorted(files, key=lambda file: -file.lines)
    by_complexity = sorted(files, key=lambda file: -_complexity(file))
    return AuditReport(
        root=str(root),
        tests_included=tests_included,
        tests_left_out=tests_left_out,
        files=len(files),
        lines=sum(file.lines for file in files),
        code_lines=sum(file.code_lines for file in files),
        functions=len(functions),
        classes=sum(file.classes for file in files),
        mean_complexity=_mean(function.complexity for _, function in functions),
        packages=sorted(
            (_package_line(root, name, audited) for name, audited in packages.items() if audited),
            key=lambda package: -package.lines,
        ),
        longest_files=[_file_line(root, file) for file in by_length[:TOP]],
        most_complex_files=[_file_line(root, file) for file in by_complexity[:TOP]],
        longest_functions=_ranking(root, functions, lambda function: function.lines),
        most_complex_functions=_ranking(root, functions, lambda function: function.complexity),
        problems=[
            Problem(file=_relative(root, file.path), reason=file.problem) for file in files if file.problem is not None
        ],
    )


def render(report: AuditReport) -> str:
    """The report as text for people, in fixed columns."""
    tests = "with tests" if report.tests_included else f"without {report.tests_left_out:,} test files"
    out = [
        f"Audit of {report.root} ({tests})",
        "",
        f"{report.files:,} files, {report.lines:,} lines, {report.code_lines:,} of them code; "
        f"{report.functions:,} functions, {report.classes:,} classes, mean complexity {report.mean_complexity:.1f}",
        "",
        f"{'package':<24}{'files':>7}{'lines':>10}{'code':>10}{'functions':>11}{'mean':>7}  most complex function",
    ]
    for package in report.packages[: 2 * TOP]:
        worst = "" if package.worst is None else f"{package.worst.name} ({package.worst.complexity})"
        out.append(
            f"{_short(package.name, 23):<24}{package.files:>7,}{package.lines:>10,}{package.code_lines:>10,}"
            f"{package.functions:>11,}{package.mean_complexity:>7.1f}  {_short(worst, 44)}"
        )
    rest = report.packages[2 * TOP :]
    if rest:
        files, lines = sum(each.files for each in rest), sum(each.lines for each in rest)
        out.append(f"{f'… and {len(rest)} more':<24}{files:>7,}{lines:>10,}")
    out += ["", "Longest files"]
    out += [f"{file.lines:>8,} lines  {file.functions:>5,} functions  {file.file}" for file in report.longest_files]
    out += ["", "Most complex files"]
    out += [
        f"{file.complexity:>8,} paths  {file.functions:>5,} functions  {file.file}"
        for file in report.most_complex_files
    ]
    out += ["", "Longest functions"]
    out += [f"{each.lines:>8,} lines  {each.name}  {each.file}:{each.line}" for each in report.longest_functions]
    out += ["", "Most complex functions"]
    out += [
        f"{each.complexity:>8,} paths  {each.name}  {each.file}:{each.line}" for each in report.most_complex_functions
    ]
    if report.problems:
        out += ["", f"Not readable as Python: {len(report.problems)}"]
        out += [f"  {problem.file}: {problem.reason}" for problem in report.problems[:TOP]]
    return "\n".join(out)


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("."))
        here = Path(folder)
        yield from (here / name for name in sorted(names) if name.endswith(".py") and not (here / name).is_symlink())


def _is_test(relative: Path) -> bool:
    name = relative.name
    return not _TEST_FOLDERS.isdisjoint(relative.parts[:-1]) or name.startswith("test_") or name.endswith("_test.py")


def _decode(source: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding)


def _measure(tree: ast.Module) -> tuple[list[FunctionAudit], int, set[int]]:
    """Every function with its own complexity (an inner one is no part of its outer one), the number of classes, and
    the lines of docstrings."""
    functions: list[FunctionAudit] = []
    classes = 0
    docstrings: set[int] = set()
    scopes: list[tuple[_Scope, str]] = [(tree, "")]
    while scopes:
        scope, prefix = scopes.pop()
        docstrings.update(_docstring_lines(scope))
        complexity = 1
        inside: list[ast.AST] = list(ast.iter_child_nodes(scope))
        while inside:
            node = inside.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                classes += isinstance(node, ast.ClassDef)
                scopes.append((node, f"{prefix}{node.name}."))
                continue
            complexity += _decisions(node)
            inside.extend(ast.iter_child_nodes(node))
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (scope.end_lineno or scope.lineno) - scope.lineno + 1
            functions.append(FunctionAudit(prefix.removesuffix("."), scope.lineno, length, complexity))
    return functions, classes, docstrings


def _docstring_lines(scope: _Scope) -> range:
    match scope.body[:1]:
        case [ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=last)]:
            return range(first, (last or first) + 1)
    return range(0)


def _decisions(node: ast.AST) -> int:
    """By how many ways through its function this node adds to them."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def _complexity(file: FileAudit) -> int:
    return sum(function.complexity for function in file.functions)


def _mean(values: Iterable[int]) -> float:
    known = list(values)
    return round(sum(known) / len(known), 2) if known else 0.0


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _package_line(root: Path, name: str, files: Sequence[FileAudit]) -> PackageLine:
    functions = [(file, function) for file in files for function in file.functions]
    worst = max(functions, key=lambda pair: pair[1].complexity, default=None)
    return PackageLine(
        name=name,
        files=len(files),
        lines=sum(file.lines for file in files),
        code_lines=sum(file.code_lines for file in files),
        functions=len(functions),
        classes=sum(file.classes for file in files),
        mean_complexity=_mean(function.complexity for _, function in functions),
        worst=None if worst is None else _function_line(root, *worst),
    )


def _file_line(root: Path, file: FileAudit) -> FileLine:
    return FileLine(
        file=_relative(root, file.path), lines=file.lines, functions=len(file.functions), complexity=_complexity(file)
    )


def _function_line(root: Path, file: FileAudit, function: FunctionAudit) -> FunctionLine:
    return FunctionLine(
        name=function.name,
        file=_relative(root, file.path),
        line=function.line,
        lines=function.lines,
        complexity=function.complexity,
    )


def _ranking(
    root: Path, functions: Sequence[tuple[FileAudit, FunctionAudit]], measure: Callable[[FunctionAudit], int]
) -> list[FunctionLine]:
    ranked = sorted(functions, key=lambda pair: -measure(pair[1]))
    return [_function_line(root, *pair) for pair in ranked[:TOP]]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
