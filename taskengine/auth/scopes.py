"""Which scopes a request needs, and whether those of a token are enough. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from taskengine.auth.config import METHODS

__all__ = ["ScopeRules"]

ALL = "*"
"""In the setting: every method that is not named."""


class ScopeRules:
    """What methods need, and which scopes include others (M-AUTH-09)."""

    def __init__(self, needs: Mapping[str, Sequence[str]], includes: Mapping[str, Sequence[str]]) -> None:
        rest = needs.get(ALL)
        self._needs = {
            method: frozenset(needs.get(method, usual if rest is None else rest)) for method, usual in METHODS.items()
        }
        self._includes = {scope: frozenset(below) for scope, below in includes.items()}

    @property
    def basic(self) -> list[str]:
        """The fewest that every method together needs; what single tools need is asked for step by step
        (X-AUTH-17)."""
        return self.fewest(scope for needed in self._needs.values() for scope in needed)

    def needed(self, methods: Iterable[str], further: Iterable[str] = ()) -> frozenset[str]:
        """All scopes of an operation (M-AUTH-07); methods that are not known need none."""
        found = set(further)
        for method in methods:
            found |= self._needs.get(method, frozenset())
        return frozenset(found)

    def expanded(self, granted: Iterable[str]) -> frozenset[str]:
        """These scopes and all that they include, at any remove."""
        found: set[str] = set()
        left = list(granted)
        while left:
            scope = left.pop()
            if scope not in found:
                found.add(scope)
                left += self._includes.get(scope, ())
        return frozenset(found)

    def fewest(self, scopes: Iterable[str]) -> list[str]:
        """The same without what others among them include, in order."""
        wanted = set(scopes)
        kept = [
            scope
            for scope in sorted(wanted)
            if not any(scope in self.expanded([other]) and not self._same(scope, other) for other in wanted - {scope})
        ]
        # Of several that include each other the first speaks for all.
        found: list[str] = []
        for scope in kept:
            if not any(self._same(scope, other) for other in found):
                found.append(scope)
        return found

    def _same(self, one: str, other: str) -> bool:
        return other in self.expanded([one]) and one in self.expanded([other])
