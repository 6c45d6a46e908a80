"""The contract of a cache policy: how many slots each head gets, and which tokens keep theirs.

A policy holds parameters and no state. It never sees a tensor of the model: the engine (cache/) stores keys and values,
adds up attention and overwrites slots, the same way for every policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry, ImageModel


@dataclass(frozen=True)
class Keep:
    """How one key-value head keeps its tokens.

    slots: tokens it holds at most, the newest one included.
    pinned: the first tokens of the sequence, never dropped.
    ranked: whether its policy's `priority` says who goes; otherwise the oldest does.
    role: a name for the head's kind, for `priority` and for reports.
    attended: tokens it attends at most, where it holds more; 0 where it attends all. It skips those at distances from
        the newest token that were attended least while its slots filled.
    """

    slots: int
    pinned: int = 0
    ranked: bool = False
    role: str = ""
    attended: int = 0


@dataclass(frozen=True)
class View:
    """What a policy may look at when it ranks: n (row, head) pairs that keep alike, the tokens in the S slots of each.
    For a policy that `recalls` they are S tokens: all that are not pinned, the oldest first, wherever they are kept.

    position: int32 [n, S], the place in the sequence a slot's token came from.
    score: float32 [n, S], the attention a slot's token has received since it came, summed over the queries of its
        head, faded by the policy's `fade` each step; [n, 0] for a policy that asks for no `scores`.
    keys, values: [n, S, D], as they are attended, keys turned to their positions; [n, 0, D] for a policy that asks for
        no `contents`. Of tokens kept elsewhere there are no keys.
    queries: [n, Q, G, D], those of the newest Q image tokens that were fed, the newest last, turned to their positions;
        Q is what the policy's `queries` asks for, or as many as there have been.
    newest: the position of the token last stored.
    pinned: the first tokens of the sequence, which stay whatever their priority.
    slots: how many tokens a pair holds at most, the pinned ones included.
    columns: image tokens in a row of the picture.
    role: the pairs' role.
    """

    position: Tensor
    score: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    newest: int
    pinned: int
    slots: int
    columns: int
    role: str


class Policy(ABC):
    """How a cache is kept small. Subclasses are frozen dataclasses of their parameters."""

    def fit(self, model: ImageModel) -> Policy:
        """The policy with what it takes from the model (a head map, say); raises UserError if the model lacks it."""
        return self

    @abstractmethod
    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        """For a row whose prompt has `prompt` tokens: how each head keeps, [layers][kv_heads]."""


class RankingPolicy(Policy):
    """A policy that ranks tokens instead of dropping the oldest.

    scores: whether the attention that tokens receive is added up for it.
    contents: whether it looks at keys and values.
    """

    refresh: int | Literal["row"]
    scores: ClassVar[bool] = True
    contents: ClassVar[bool] = True

    @property
    def recalls(self) -> bool:
        """Whether what leaves the slots may come back: then the host's memory keeps it, and a ranking says anew which
        of all tokens are held. Such a policy asks for values alone, not for `scores` or `queries`, and plans once."""
        return False

    def steps_between(self, geometry: Geometry) -> int:
        """How many tokens are drawn between two rankings."""
        return geometry.columns if self.refresh == "row" else self.refresh

    def fade(self, geometry: Geometry) -> float:
        """What an attention score is multiplied with at each step."""
        return 1.0

    def queries(self, geometry: Geometry) -> int:
        """How many of a head's newest queries are kept for `priority` to look at."""
        return 0

    def replan_at(self, geometry: Geometry, prompt: int) -> int | None:
        """How many tokens a row with such a prompt holds when the policy plans anew, once, from what it has seen; None
        is never. Until then every head holds them all, in as many slots as `keeps` says: just these."""
        return None

    def choices(self, geometry: Geometry, prompt: int) -> Sequence[Keep]:
        """How heads may keep once the policy has planned anew. None has more slots than the last."""
        return []

    def choose(self, view: View) -> Tensor:
        """int64 [n]: which of `choices` each pair follows from now on; its own tokens and queries alone may decide."""
        raise NotImplementedError

    @abstractmethod
    def priority(self, view: View) -> Tensor:
        """float32 [n, S]: the lower, the sooner a token's slot is overwritten. Pinned tokens are left out by the
        engine. Between two rankings the lowest go one by one, lowest first, and are attended until then."""


def uniform(keep: Keep, geometry: Geometry) -> Sequence[Sequence[Keep]]:
    """The same `keep` for every head."""
    return [[keep] * geometry.kv_heads] * geometry.layers


def check_budget(budget: int | float) -> None:
    """Refuse what is neither a share in (0, 1] (a float) nor a count of at least 2 tokens (an int)."""
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise UserError(f"A budget is a share such as 0.2 or a count of tokens such as 115, not {budget!r}.")
    if isinstance(budget, int) and budget < 2:
        raise UserError(f"A budget of {budget} tokens is too small; give at least 2, or a share such as 0.2.")
    if isinstance(budget, float) and not 0 < budget <= 1:
        raise UserError(f"A budget share lies above 0 and at most at 1, but this one is {budget}; try 0.2.")


def check_refresh(refresh: int | str) -> None:
    """Refuse what is neither 'row' nor a positive number of tokens."""
    if refresh != "row" and (isinstance(refresh, bool) or not isinstance(refresh, int) or refresh < 1):
        raise UserError(f"refresh is 'row' or a number of tokens of at least 1, not {refresh!r}.")


def check_count(name: str, count: int | None, least: int = 0) -> None:
    """Refuse what is neither left to the method (None) nor a number of tokens."""
    if count is not None and count < least:
        raise UserError(f"{name} is a number of tokens, {least} or more, not {count}.")


def check_share(name: str, share: float) -> None:
    """Refuse what is all, nothing, or no part of anything."""
    if not 0 < share < 1:
        raise UserError(f"{name} is a share between 0 and 1, not {share}.")


def slots_of(budget: int | float, geometry: Geometry, prompt: int, pinned: int) -> int:
    """The slots a head gets on average: a share counts prompt and image tokens together (arXiv 2510.18716).

    Raises UserError where the pinned tokens would leave no slot for an image token.
    """
    share = isinstance(budget, float)
    slots = int(budget * (prompt + geometry.tokens)) if share else int(budget)
    slots = min(slots, geometry.cached_tokens(prompt))
    if slots <= pinned:
        whole = f"{budget:g} of {prompt + geometry.tokens} tokens, {slots}," if share else f"{slots} tokens,"
        raise UserError(
            f"The budget, {whole} does not hold the {pinned} pinned tokens and an image token; "
            f"raise it to at least {pinned + 1} tokens, or pin fewer."
        )
    return slots
