"""Who is compared: transformers' own ways to draw, and ours."""

from __future__ import annotations

import functools
import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import ssd_core
from ssd_core.errors import UserError
from ssd_core.memory import module_bytes
from ssd_core.models.base import ImageModel
from ssd_core.models.placement import computes_in_bfloat16

GUIDANCE = 5.0
BUDGET = 0.2  # of the compressed caches


@dataclass(frozen=True)
class Run:
    """One drawing of a batch, without its pictures, which not every rival paints.

    seconds: from the prompts to the last token.
    kv_bytes: what the cache holds at the end.
    kv_read: bytes of keys and values that a step must read, on the mean.
    read: bytes of the weights that each step reads, those of the decoder and the image head.
    by_row: seconds of the token loop up to the end of each row of the grid, where the rival tells.
    """

    seconds: float
    kv_bytes: int
    kv_read: float
    read: int
    by_row: list[float] = field(default_factory=list)


Draw = Callable[[int], Run]  # with a seed
Prompts = Sequence[str]


@dataclass(frozen=True)
class Rival:
    """Somebody who draws.

    model: whose weights it takes, read when they are asked for first.
    drawer: makes a batch of these prompts, one picture each.
    most: how many pictures of a prompt there is room for in so many bytes.
    plans: whether that is its own plan, and not that of our full cache.
    """

    model: Callable[[], nn.Module]
    drawer: Callable[[Prompts], Draw]
    most: Callable[[str, int], int]
    plans: bool = True


def ours(model: ImageModel, prompts: Prompts, policy: ssd_core.Policy, step: str = "auto") -> Draw:
    """Our engine with a policy and a step."""

    def draw(seed: int) -> Run:
        by_row: list[float] = []

        def on_row(row: int, tokens: Tensor, memory: object, speed: float | None) -> None:
            by_row.append(tokens.numel() / speed if speed else 0.0)

        begun = time.perf_counter()
        how: dict[str, Any] = {"seed": seed, "guidance": GUIDANCE, "on_row": on_row, "step": step}
        result = ssd_core.generate(model, prompts, policy, **how)
        seconds = time.perf_counter() - begun - result.timing.pictures
        kv_read = mean_over_steps(result.memory.kv_bytes_by_row)
        return Run(seconds, result.memory.kv_bytes, kv_read, weights_of_a_step(model), by_row)

    # what the compiler takes is told in words, and a kernel is tried once a process
    first = prompts if step == "compiled" else prompts[:1]
    ssd_core.generate(model, first, policy, guidance=GUIDANCE, step=step, on_row=lambda *_: True)
    return draw


def weights_of_a_step(model: ImageModel) -> int:
    """Bytes of the weights that a step reads."""
    head: Any = model.head
    return module_bytes(model.decoder) + module_bytes(head)


def mean_over_steps(by_row: Sequence[int]) -> float:
    """The mean of what grows evenly within each row of the grid. by_row: before the first, and behind each."""
    return statistics.mean((before + after) / 2 for before, after in pairwise(by_row))


def read_theirs(path: str, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' Janus of the files."""
    if not Path(path).is_dir():
        raise UserError(f"transformers reads folders, and {path} is a file; leave transformers' ways out of --rivals.")
    rival: Any = transformers.JanusForConditionalGeneration.from_pretrained(path, dtype=dtype)
    return rival.to(device).eval()


class Theirs:
    """transformers' Janus, and how it may be used."""

    def __init__(self, janus: Any, model: ImageModel, prompts: Prompts, device: torch.device) -> None:
        """janus, model: theirs and ours of the same files. device: where theirs computes."""
        inner = janus.model.language_model
        self.janus = janus
        self.read = sum(map(module_bytes, (inner.layers, inner.norm, janus.model.generation_head)))
        self.device, self.tokens = device, model.geometry.tokens
        # transformers 5.24 calls the cache so where older ones say past_key_values
        named = inspect.signature(self.janus.model.language_model.forward).parameters
        self.cache_name = "cache" if "cache" in named else "past_key_values"
        ids = [model.encode(prompt) for prompt in prompts]
        width = max(map(len, ids))
        pad = self.janus.generation_config.pad_token_id
        self.ids = torch.tensor([[pad] * (width - len(own)) + own for own in ids], device=self.device)
        self.mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in ids], device=self.device)
        empty = [model.unconditional(own) for own in ids]
        self.both = torch.cat(
            [self.ids, torch.tensor([[pad] * (width - len(own)) + own for own in empty], device=self.device)]
        )

    def generate(self, seed: int) -> Run:
        """Its own generate as it comes, with its static cache."""
        return self._generate(seed, None)

    def generate_dynamic(self, seed: int) -> Run:
        """Its own generate with a cache that grows."""
        return self._generate(seed, transformers.DynamicCache())

    def _generate(self, seed: int, cache: Any) -> Run:
        torch.manual_seed(seed)
        begun = time.perf_counter()
        given = {} if cache is None else {self.cache_name: cache}
        result = self.janus.generate(
            self.ids,
            attention_mask=self.mask,
            generation_mode="image",
            do_sample=True,
            top_k=0,
            guidance_scale=GUIDANCE,
            return_dict_in_generate=True,
            **given,
        )
        kv_bytes = held(result[self.cache_name])
        return Run(self._since(begun), kv_bytes, kv_bytes if cache is None else self._mean(kv_bytes), self.read)

    @torch.inference_mode()
    def concatenating(self, seed: int) -> Run:
        """A loop as the official code runs it: keys and values are put behind the former ones at every step."""
        torch.manual_seed(seed)
        inner, begun, cache = self.janus.model, time.perf_counter(), None
        x, mask = inner.get_input_embeddings()(self.both), self.mask.repeat(2, 1)
        for _ in range(self.tokens):
            given = {self.cache_name: cache}
            out = inner.language_model(inputs_embeds=x, attention_mask=mask, use_cache=True, **given)
            cache = out[self.cache_name]
            conditional, unconditional = inner.generation_head(out.last_hidden_state[:, -1]).chunk(2)
            logits = unconditional + GUIDANCE * (conditional - unconditional)
            token = torch.multinomial(logits.softmax(-1), 1)
            x = self.janus.prepare_embeddings_for_image_generation(torch.cat([token, token]))
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return Run(self._since(begun), held(cache), self._mean(held(cache)), self.read)

    def _mean(self, kv_bytes: int) -> float:
        """What a cache held on the mean that grew to so many bytes from the prompt on."""
        first = self.ids.shape[1]
        last = first + self.tokens - 1
        return kv_bytes / last * (first + last) / 2

    def _since(self, begun: float) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun


def held(cache: Any) -> int:
    """The bytes of transformers' cache."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


TRANSFORMERS, FULL = "transformers generate", "full"


def rivals(path: str, model: ImageModel, budget: float = BUDGET) -> dict[str, Rival]:
    """All of them by name.

    Ours take the step that users get, unless their names say another. Where a model computes in float32 on a processor
    that multiplies in bfloat16, some do that, too.

    path: the folder of the model's files, in transformers' layout.
    budget: of the compressed caches, a share of prompt and image.
    """
    share, device = f"{100 * budget:g} %", model.device
    full, ssd = ssd_core.Full(), ssd_core.SSD(budget)

    def mine(policy: ssd_core.Policy, step: str = "auto", own: Callable[[], ImageModel] = lambda: model) -> Rival:
        def most(prompt: str, free: int) -> int:
            return ssd_core.largest_batch(own(), policy, free, prompt, GUIDANCE, step=step)

        return Rival(own, lambda prompts: ours(own(), prompts, policy, step), most)

    def theirs(draw: Callable[[Theirs, int], Run], own: Callable[[], ImageModel], janus: Callable[[], Any]) -> Rival:
        def drawer(prompts: Prompts) -> Draw:
            return functools.partial(draw, Theirs(janus(), own(), prompts, device))

        return Rival(janus, drawer, mine(full).most, plans=False)

    janus = functools.cache(lambda: read_theirs(path, model.dtype, device))
    known = {
        TRANSFORMERS: theirs(Theirs.generate, lambda: model, janus),
        "transformers generate, dynamic cache": theirs(Theirs.generate_dynamic, lambda: model, janus),
        "concatenating loop": theirs(Theirs.concatenating, lambda: model, janus),
        FULL: mine(full),
        f"window {share}": mine(ssd_core.Window(budget)),
        f"HeadKV {share}": mine(ssd_core.HeadKV(budget)),
        f"SSD {share}, refresh 1": mine(ssd_core.SSD(budget, refresh=1)),
        f"SSD {share}, refresh row": mine(ssd),
        f"Reach {share}": mine(ssd_core.Reach(budget)),
        "full, plain": mine(full, "plain"),
        f"SSD {share}, refresh row, plain": mine(ssd, "plain"),
        "full, compiled": mine(full, "compiled"),
        f"SSD {share}, refresh row, compiled": mine(ssd, "compiled"),
    }
    if device.type == "cpu" and model.dtype == torch.float32 and computes_in_bfloat16(device):
        half = functools.cache(lambda: ssd_core.load(path, device, torch.bfloat16, weights=model.weights))
        half_janus = functools.cache(lambda: read_theirs(path, torch.bfloat16, device))
        known |= {
            f"{TRANSFORMERS}, bfloat16": theirs(Theirs.generate, half, half_janus),
            "full, bfloat16": mine(full, own=half),
            f"SSD {share}, refresh row, bfloat16": mine(ssd, own=half),
        }
    return known
