"""Fidelity to the full cache, by the loop itself and by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from ssd_core.cache.cache import SlotCache
from ssd_core.errors import UserError
from ssd_core.evaluate.fidelity import agreement, divergence, forced_logits, surprise
from ssd_core.policies import SSD, Full, Policy, Window
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling
from tests.table import EQUAL, SEED, draw, each_guidance, each_policy, each_prompts, model_of


@each_policy
@each_prompts
@each_guidance
def test_a_policy_fed_its_own_tokens_has_the_logits_it_drew_them_from(
    policy: Policy, prompts: tuple[str, ...], guidance: float
) -> None:
    model = model_of()
    drawn = draw(model, policy, prompts, guidance)
    rows = prompt_rows(model, prompts, 1, None, Sampling(guidance))
    assert torch.equal(torch.stack(list(forced_logits(model, policy, rows, drawn.tokens))), drawn.logits)


def test_other_tokens_have_other_logits() -> None:
    model = model_of()
    rows = prompt_rows(model, EQUAL, 1, None, Sampling(1.0))
    own = draw(model, Full(), EQUAL, 1.0)
    other = draw(model, Full(), EQUAL, 1.0, seed=SEED + 2).tokens
    logits = torch.stack(list(forced_logits(model, Full(), rows, other)))
    assert torch.equal(logits[0], own.logits[0])  # nothing has been given yet
    assert not torch.allclose(logits[1:], own.logits[1:])


def test_the_cache_is_given_back_also_to_who_stops_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[SlotCache] = []
    monkeypatch.setattr(SlotCache, "free", lambda cache: freed.append(cache))  # as a method
    model = model_of()
    logits = forced_logits(model, Full(), [model.encode("a")], torch.zeros(1, model.geometry.tokens, dtype=torch.int64))
    next(logits)
    assert not freed
    logits.close()  # type: ignore[attr-defined]
    assert len(freed) == 1


def test_what_a_policy_cannot_do_is_refused() -> None:
    model = model_of()
    with pytest.raises(UserError, match="pinned"):
        next(forced_logits(model, Window(3), [model.encode("abc")], torch.zeros(1, 12, dtype=torch.int64)))
    with pytest.raises(UserError, match="No head map is known for tiny"):
        next(forced_logits(model, SSD(), [model.encode("abc")], torch.zeros(1, 12, dtype=torch.int64)))


def test_a_small_budget_diverges_and_the_full_cache_does_not() -> None:
    model, sampling = model_of(), Sampling(3.0)
    rows = prompt_rows(model, EQUAL, 1, None, sampling)
    tokens = draw(model, Full(), EQUAL, 3.0).tokens

    def guided(policy: Policy) -> list[torch.Tensor]:
        return [sampling.guide(logits) for logits in forced_logits(model, policy, rows, tokens)]

    full = guided(Full())
    assert divergence(full, guided(Full())).tolist() == [0, 0]
    assert (divergence(full, guided(Window(5))) > divergence(full, guided(Window(10)))).all()
    assert (divergence(full, guided(Window(10))) > 0).all()


def test_divergence_and_surprise_by_hand() -> None:
    sure, fair = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    one = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert divergence([sure, sure], [fair + 3, sure]).tolist() == pytest.approx([one / 2], abs=1e-7)  # logits, any sum
    assert surprise([sure, fair], torch.tensor([[1, 0]])).tolist() == pytest.approx([(log(4) + log(2)) / 2])


def test_agreement_of_each_picture_over_what_both_have_drawn() -> None:
    one = torch.tensor([[1, 2, 3, -1], [1, 2, 3, -1]])
    assert agreement(one, torch.tensor([[1, 2, 4, 4], [1, 2, -1, -1]])).tolist() == pytest.approx([2 / 3, 1])
