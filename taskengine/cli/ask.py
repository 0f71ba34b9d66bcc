"""The demo's questions: at the prompt, and without a terminal answered with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskengine.cli.form import answer_at_prompt, can_ask
from taskengine.cli.screen import note, out
from taskengine.records import Question

__all__ = ["ask"]


async def ask(question: Question) -> dict[str, Any]:
    """The raw answer to `question`; what is no form is declined."""
    schema = question.params.get("requestedSchema")
    if question.method != "elicitation/create" or not isinstance(schema, Mapping):
        note("this terminal can only fill in forms: declined")
        return {"action": "decline"}
    if can_ask():
        return await answer_at_prompt(question)
    out.print(f"\nThe task asks: {question.params.get('message', question.method)}", markup=False)
    fields: Mapping[str, Any] = schema.get("properties", {})
    content = {name: _default(field) for name, field in fields.items()}
    said = ", ".join(f"{name} = {value!r}" for name, value in content.items())
    note(f"no terminal, so the demo answers for itself: {said}")
    return {"action": "accept", "content": content}


def _default(field: Mapping[str, Any]) -> Any:
    """The field's default, else the least that fits its type."""
    if "default" in field:
        return field["default"]
    least = {"boolean": True, "integer": field.get("minimum", 0), "number": field.get("minimum", 0), "array": []}
    choices = [option["const"] for option in field.get("oneOf", ())] or field.get("enum")
    return least.get(str(field.get("type")), (choices or ["x" * field.get("minLength", 1)])[0])
