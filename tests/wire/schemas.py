"""The published schemas, for tests that hold our messages against them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT.parent / "shared" / "spec"
CORE = "schema-2026-07-28.json"
TASKS = "schema-ext-tasks.json"


def check(definition: str, instance: Any, document: str = CORE) -> None:
    """`instance` is valid by that definition. Skips the test where the schemas are not at hand."""
    if not (FOLDER / document).is_file():
        pytest.skip(f"the published schema {document} is not in {FOLDER.name}/ beside the repository")
    errors = sorted(_validator(document, definition).iter_errors(instance), key=str)
    assert not errors, f"{definition}: " + "; ".join(f"{list(error.path)}: {error.message[:300]}" for error in errors)


@cache
def _validator(document: str, definition: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / document).read_text())
    _allow_fractions(schema)
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{definition}"})


def _allow_fractions(schema: dict[str, Any]) -> None:
    """The generated files allow only whole numbers in the content of an answer, the source has `number` (A-28)."""
    content = schema["$defs"]["ElicitResult"]["properties"]["content"]["additionalProperties"]

    def widen(part: Any) -> None:
        if isinstance(part, dict):
            kind = part.get("type")
            if kind == "integer":
                part["type"] = "number"
            elif isinstance(kind, list) and "integer" in kind:
                part["type"] = [*kind, "number"]
            for value in part.values():
                widen(value)
        elif isinstance(part, list):
            for value in part:
                widen(value)

    widen(content)
