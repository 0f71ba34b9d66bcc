"""Quantiles by the nearest rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["quantile"]


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank; 0 of nothing. `values` are sorted."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0
