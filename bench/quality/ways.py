"""What is compared: every method, and some with options, each at several budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from ssd_core.errors import UserError
from ssd_core.policies import METHODS, Full, Policy

BUDGETS = (0.5, 0.2, 0.125, 0.08, 0.05)


@dataclass(frozen=True)
class Variant:
    """A method of METHODS with other options than its own, or with keys and values kept in another precision."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    kv_dtype: str = "auto"


# called as on the command line
VARIANTS = {
    "ssd --refresh 1": Variant("ssd", {"refresh": 1}),
    "ssd --literal": Variant("ssd", {"literal": True}),
    "ssd --kv-dtype int8": Variant("ssd", kv_dtype="int8"),
    "reach --kv-dtype int8": Variant("reach", kv_dtype="int8"),
}
NAMES = (*METHODS, *VARIANTS)


@dataclass(frozen=True)
class Way:
    """A method at a budget, a share of prompt and image; 1 for a method that has none."""

    method: str
    budget: float

    def policy(self) -> Policy:
        """Raises UserError where the method refuses the budget."""
        variant = variant_of(self.method)
        cls: Any = METHODS[variant.method]
        return cls(**({"budget": self.budget} if has_budget(self.method) else {}), **variant.options)

    @property
    def kv_dtype(self) -> str:
        """What keys and values are kept in, as `generate` takes it."""
        return variant_of(self.method).kv_dtype

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


def variant_of(name: str) -> Variant:
    """What one of NAMES stands for."""
    return VARIANTS.get(name) or Variant(name)


def has_budget(method: str) -> bool:
    """Whether a method takes a budget."""
    cls: Any = METHODS[variant_of(method).method]
    return "budget" in {field.name for field in fields(cls)}


def ways(methods: Iterable[str] = NAMES, budgets: Iterable[float] = BUDGETS) -> Iterator[Way]:
    """The full cache, and the methods at each budget."""
    budgets = sorted(budgets, reverse=True)
    yield FULL
    for method in methods:
        if method != FULL.method:
            yield from (Way(method, budget) for budget in (budgets if has_budget(method) else [1.0]))
