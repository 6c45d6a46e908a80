"""What is compared: every method, and some with options, each at several budgets."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from ssd_core.cache.storage import KV_DTYPES
from ssd_core.cli.fields import flag, parameters
from ssd_core.errors import UserError
from ssd_core.policies import METHODS, Full, Policy

from .questions import QUESTIONS

BUDGETS = (0.5, 0.2, 0.125, 0.08, 0.05)
KNOWN = METHODS | QUESTIONS


@dataclass(frozen=True)
class Variant:
    """A method with options, and what keys and values are kept in."""

    method: str
    options: dict[str, Any]
    kv_dtype: str


@cache
def variant_of(name: str) -> Variant:
    """Read a method's name, alone or with options as the command line takes them.

    Raises UserError for a name that begins with no method, and for options that the method does not take.
    """
    method, *words = shlex.split(name)
    if method not in KNOWN:
        raise UserError(f"There is no method {method!r}; choose from {', '.join(KNOWN)}.")
    known = parameters({method: KNOWN[method]})
    parser = argparse.ArgumentParser(method, allow_abbrev=False, exit_on_error=False)
    for parameter in known.values():
        if parameter.kinds == (bool,):
            parser.add_argument(flag(parameter.name), action=argparse.BooleanOptionalAction)
        elif parameter.name != "budget":  # that of --budgets
            parser.add_argument(flag(parameter.name))
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="auto")
    try:
        given, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{name!r} cannot be read: {error}.") from None
    if unknown:
        raise UserError(f"{method} takes no {' '.join(unknown)} here; leave it out.")
    options = {option: value for option, value in vars(given).items() if value is not None}
    kv_dtype = options.pop("kv_dtype")
    return Variant(method, {option: known[option].read(value) for option, value in options.items()}, kv_dtype)


@dataclass(frozen=True)
class Way:
    """A method at a budget, a share of prompt and image; 1 for a method that has none."""

    method: str
    budget: float

    def policy(self) -> Policy:
        """Raises UserError where the method refuses the budget."""
        variant = variant_of(self.method)
        cls: Any = KNOWN[variant.method]
        return cls(**({"budget": self.budget} if has_budget(self.method) else {}), **variant.options)

    @property
    def kv_dtype(self) -> str:
        """What keys and values are kept in, as `generate` takes it."""
        return variant_of(self.method).kv_dtype

    @property
    def about(self) -> str:
        """The policy in words, which change when it does."""
        try:
            policy: Any = self.policy()
        except UserError as error:
            return str(error)
        head_map = getattr(policy, "head_map", None)
        return repr(policy) if head_map is None else f"{replace(policy, head_map=None)} with {head_map.about}"

    @property
    def full(self) -> bool:
        """Whether this is what the others are measured against."""
        return METHODS.get(self.method) is Full

    def __str__(self) -> str:
        return f"{self.method} {self.budget:.1%}"


FULL = Way(next(name for name, cls in METHODS.items() if cls is Full), 1.0)


def has_budget(method: str) -> bool:
    """Whether a method takes a budget."""
    cls: Any = KNOWN[variant_of(method).method]
    return "budget" in {field.name for field in fields(cls)}


def ways(methods: Iterable[str] = tuple(METHODS), budgets: Iterable[float] = BUDGETS) -> Iterator[Way]:
    """The full cache, and the methods at each budget."""
    budgets = sorted(budgets, reverse=True)
    yield FULL
    for method in methods:
        if method != FULL.method:
            yield from (Way(method, budget) for budget in (budgets if has_budget(method) else [1.0]))
