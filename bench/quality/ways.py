"""What is compared: every method, and some with options, each at several budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from ssd_core.errors import UserError
from ssd_core.policies import METHODS, Full, Policy

BUDGETS = (0.5, 0.2, 0.125, 0.08, 0.05)
# methods of METHODS with other options than their own, called as on the command line
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ssd --refresh 1": ("ssd", {"refresh": 1}),
    "ssd --literal": ("ssd", {"literal": True}),
}
NAMES = (*METHODS, *VARIANTS)


@dataclass(frozen=True)
class Way:
    """A method at a budget, a share of prompt and image; 1 for a method that has none."""

    method: str
    budget: float

    def policy(self) -> Policy:
        """Raises UserError where the method refuses the budget."""
        name, options = VARIANTS.get(self.method, (self.method, {}))
        cls: Any = METHODS[name]
        return cls(**({"budget": self.budget} if has_budget(self.method) else {}), **options)

    @property
    def about(self) -> str:
        """The policy in words, which change when it does."""
        try:
            return repr(self.policy())
        except UserError as error:
            return str(error)

    @property
    def full(self) -> bool:
        """Whether this is what the others are measured against."""
        return METHODS.get(self.method) is Full

    def __str__(self) -> str:
        return f"{self.method} {self.budget:.1%}"


FULL = Way(next(name for name, cls in METHODS.items() if cls is Full), 1.0)


def has_budget(method: str) -> bool:
    """Whether a method takes a budget."""
    cls: Any = METHODS[VARIANTS.get(method, (method,))[0]]
    return "budget" in {field.name for field in fields(cls)}


def ways(methods: Iterable[str] = NAMES, budgets: Iterable[float] = BUDGETS) -> Iterator[Way]:
    """The full cache, and the methods at each budget."""
    budgets = sorted(budgets, reverse=True)
    yield FULL
    for method in methods:
        if method != FULL.method:
            yield from (Way(method, budget) for budget in (budgets if has_budget(method) else [1.0]))
