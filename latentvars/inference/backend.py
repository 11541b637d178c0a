"""Where contributions are added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Backend(Protocol):
    """Adds what every process has contributed to an update."""

    def sum(self, total: Any) -> Any: ...


@dataclass(frozen=True)
class Local:
    """One process: the total is the sum."""

    def sum(self, total: Any) -> Any:
        return total
