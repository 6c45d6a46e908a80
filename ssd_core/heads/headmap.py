"""Head maps: for every attention head, how much of its attention leaves its neighbourhood; kept in small files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry

SPATIAL = 0.3  # the largest share of a spatial head, unless somebody says otherwise
SHIPPED = Path(__file__).parent.parent / "assets" / "heads"


@dataclass(frozen=True, eq=False)
class HeadMap:
    """s[l, h] of a model's heads (arXiv 2510.18716, section 3).

    share: float32 [layers, heads] in 0..1, the part of a head's attention to image tokens that goes outside its
        neighbourhood.
    about: where it comes from, in words: model, source, prompts.
    beyond: float32 [layers, heads, W], the part of all attention of a head, to the prompt included, that goes to image
        tokens beyond the newest 1 to W; None where that was not measured.
    """

    share: Tensor
    about: dict[str, str] = field(default_factory=dict)
    beyond: Tensor | None = None
    peak: Tensor | None = None

    def __post_init__(self) -> None:
        share = self.share
        if share.ndim != 2 or share.numel() == 0 or not ((share >= 0) & (share <= 1)).all():
            raise UserError("A head map is a table [layers, heads] of shares in 0..1; measure the heads anew.")
        if self.beyond is not None and self.beyond.shape[:-1] != share.shape:
            raise UserError("A head map says how far all of its heads look, or nothing; measure the heads anew.")
        if (self.peak is None) != (self.beyond is None) or (self.peak is not None and self.peak.shape != share.shape):
            raise UserError(
                "A head map that says how far heads look says how far at most, too; measure the heads anew."
            )

    def check(self, geometry: Geometry) -> None:
        """Raise UserError unless the map was made for a model of this many layers and heads."""
        if tuple(self.share.shape) != (geometry.layers, geometry.heads):
            layers, heads = self.share.shape
            raise UserError(
                f"The head map describes {layers} layers x {heads} heads, but the model has {geometry.layers} x "
                f"{geometry.heads}; measure one for this model."
            )

    def semantic(self, tau: float, geometry: Geometry) -> Tensor:
        """bool [layers, kv_heads]: whether the query heads that read a key-value head have a mean share above tau."""
        return self.share.view(geometry.layers, geometry.kv_heads, -1).mean(-1) > tau

    def reach(self, lost: float, geometry: Geometry) -> Tensor:
        """int64 [layers, kv_heads]: how many of the newest image tokens a key-value head must hold so that each query
        head that reads it loses no more than `lost` of its attention beyond them; 0 where the map knows no such number.

        A map without that knowledge knows the spatial heads, which hold their row and a token more.
        """
        if self.beyond is None:
            return (~self.semantic(SPATIAL, geometry)).long() * (geometry.columns + 1)
        enough = (self.beyond <= lost).view(geometry.layers, geometry.kv_heads, -1, self.beyond.shape[-1]).all(2)
        return enough.any(-1) * (enough.byte().argmax(-1) + 1)

    def seldom_far(self, most: float, geometry: Geometry) -> Tensor:
        """bool [layers, kv_heads]: whether any query head that reads a key-value head once gave more than `most` of its
        attention to image tokens beyond a row and a token. Nobody knows of one in a map without that knowledge."""
        peak = self.share.new_zeros(self.share.shape) if self.peak is None else self.peak
        return (peak > most).view(geometry.layers, geometry.kv_heads, -1).any(-1)

    def save(self, path: str | Path) -> None:
        """Write the map as a safetensors file."""
        known = {"share": self.share, "beyond": self.beyond, "peak": self.peak}
        tensors = {name: tensor.contiguous() for name, tensor in known.items() if tensor is not None}
        save_file(tensors, str(path), {"about": json.dumps(self.about)})

    @staticmethod
    def load(path: str | Path) -> HeadMap:
        """Read a map that `save` wrote; raises UserError for anything else."""
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                there = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                return HeadMap(there["share"], about, there.get("beyond"), there.get("peak"))
        except FileNotFoundError:
            raise UserError(f"There is no head map at {path}.") from None
        except (SafetensorError, KeyError, OSError, json.JSONDecodeError):
            raise UserError(f"{path} is not a head map; choose another file, or measure a map and keep it.") from None


def check_tau(tau: float) -> None:
    """Refuse a threshold that no share can pass or miss."""
    if not 0 <= tau <= 1:
        raise UserError(f"tau is a share of attention in 0..1, not {tau}.")


@cache
def default_map(name: str, geometry: Geometry) -> HeadMap:
    """The shipped map for a model's layers and heads; raises UserError where there is none.

    A model is known by its size, not its name, because fine-tuned relatives keep the heads of the model they come from.
    """
    for path in sorted(SHIPPED.glob("*.safetensors")):
        head_map = HeadMap.load(path)
        sizes = (geometry.layers, geometry.heads, geometry.head_dim)
        if (*head_map.share.shape, int(head_map.about["head_dim"])) == sizes:
            return head_map
    raise UserError(
        f"No head map is known for {name} ({geometry.layers} layers x {geometry.heads} heads); measure its "
        "heads and give the map as head_map."
    )
