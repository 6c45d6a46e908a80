"""ShapesEval: does a picture of the embedded model show what its prompt asks for?

Six tasks and a verdict per picture, as GenEval (arXiv 2310.11513), but stricter: GenEval lets a picture hold more than
was asked except when counting; here every task fails with an object too many, and with a wrong background if one is
named.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, permutations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from .captions import Asked, Request, parse
from .gallery import Sheet, sheets_of
from .scenes import PLURAL, TASKS, Scene, sample
from .see import Seen, View, see

# Two objects stand in a relation when their centres are this much of their sizes' sum apart along its axis: half a side
# for equal sizes. GenEval asks for 0.1 of real objects' boxes; the boxes of these scenes are always wholly apart.
MARGIN = 0.25
PATIENCE = 500  # draws without a new caption after which a task counts as exhausted


@dataclass(frozen=True)
class Verdict:
    """How one picture was judged; `reason` says in a few words what is wrong and is empty for a right picture."""

    caption: str
    task: str
    reason: str

    @property
    def right(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class ShapesScore:
    """The verdicts on some pictures, in their order, and the shares of right ones."""

    verdicts: tuple[Verdict, ...]

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of right pictures of each task that occurs, in 0..1."""
        right = {task: [verdict.right for verdict in self.verdicts if verdict.task == task] for task in TASKS}
        return {task: sum(each) / len(each) for task, each in right.items() if each}

    @property
    def overall(self) -> float:
        """The mean of the tasks' accuracies, each counting the same however many pictures it has."""
        return sum(self.accuracy.values()) / len(self.accuracy)


def held_out_prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of combinations never trained on, the tasks in turn; none twice before a task has no others."""
    return [scene.caption for scene in held_out_scenes(count, seed)]


def held_out_scenes(count: int, seed: int = 0) -> list[Scene]:
    """For each of these prompts a scene that shows it."""
    rng = random.Random(seed)
    scenes = {task: _scenes(rng, task) for task in TASKS}
    return [next(scenes[TASKS[index % len(TASKS)]]) for index in range(count)]


def _scenes(rng: random.Random, task: str) -> Iterator[Scene]:
    seen: dict[str, Scene] = {}
    misses = 0
    while misses < PATIENCE:
        scene = sample(rng, evaluation=True, task=task)
        if scene.caption in seen:
            misses += 1
        else:
            misses = 0
            seen[scene.caption] = scene
            yield scene
    yield from cycle(seen.values())


def score(pictures: Sequence[ArrayLike], captions: Sequence[str]) -> ShapesScore:
    """Judge each picture, [H, H, 3] in uint8 or float in 0..1, by its caption.

    Raises UserError without pictures, for a caption too many or too few, and for one that is not of this world.
    """
    if len(pictures) != len(captions):
        raise UserError(f"{len(pictures)} pictures cannot be scored with {len(captions)} captions: give one each.")
    if not captions:
        raise UserError("There are no pictures to score.")
    return ShapesScore(tuple(map(judge, pictures, captions)))


def score_folder(folder: str | Path) -> ShapesScore:
    """Judge all PNG files of a folder, in order of their names.

    Where the prompts stand, `sheets_of` says. Raises UserError for whatever is missing or cannot be read.
    """
    return ShapesScore(tuple(map(_judge_sheet, sheets_of(Path(folder)))))


def judge(picture: ArrayLike, caption: str) -> Verdict:
    """Judge one picture, [H, H, 3] in uint8 or float in 0..1."""
    request = parse(caption)
    return Verdict(caption, request.task, _fault(see(picture), request))


def _fault(view: View, request: Request) -> str:
    if view.background is None:
        return "no plain background"
    if request.background not in (None, view.background):
        return f"expected a {request.background} background, found {view.background}"
    matches = [order for order in _orders(view, request) if all(map(_fits, order, request.objects))]
    if not matches:
        return _difference(view, request)
    if request.relation and not any(_stand(request.relation, *order) for order in matches):
        first, second = (_name(asked.shape, asked.colour) for asked in request.objects)
        return f"the {first} is not {request.relation} the {second}"
    return ""


def _orders(view: View, request: Request) -> Iterable[tuple[Seen, ...]]:
    """All ways to take the objects of the picture for the ones asked for."""
    return permutations(view.things) if len(view.things) == len(request.objects) else ()


def _fits(seen: Seen, asked: Asked) -> bool:
    return seen.shape == asked.shape and asked.colour in (None, seen.colour)


def _stand(relation: str, first: Seen, second: Seen) -> bool:
    right, down = second.x - first.x, second.y - first.y
    offset = {"left of": right, "right of": -right, "above": down, "below": -down}[relation]
    return offset > MARGIN * (first.size + second.size)


def _difference(view: View, request: Request) -> str:
    coloured = request.objects[0].colour is not None
    expected = _list((asked.shape, asked.colour) for asked in request.objects)
    found = _list((seen.shape, (seen.colour or "odd-coloured") if coloured else None) for seen in view.things)
    return f"expected {expected}, found {found or 'nothing'}"


def _list(objects: Iterable[tuple[str | None, str | None]]) -> str:
    return " and ".join(f"{count} {_name(*what, plural=count > 1)}" for what, count in Counter(objects).items())


def _name(shape: str | None, colour: str | None, plural: bool = False) -> str:
    one, several = (shape, PLURAL[shape]) if shape else ("odd shape", "odd shapes")
    noun = several if plural else one
    return f"{colour} {noun}" if colour else noun


def _judge_sheet(sheet: Sheet) -> Verdict:
    prompt, [picture] = sheet.read()
    try:
        return judge(np.asarray(picture), prompt)
    except UserError as error:
        raise UserError(f"{sheet.path.name}: {error}") from None
