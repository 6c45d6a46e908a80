"""Join the trained model and the trained picture codec into a folder that transformers loads.

    python -m train.export --run runs/shapes --to ssd_core/assets/janus-shapes

Every transformers from 4.52 on can load it. A run without a picture codec of its own takes the shipped model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import JanusForConditionalGeneration

from .model import build
from .text import save

SHIPPED = Path("ssd_core/assets/janus-shapes")


def export(run: Path, to: Path) -> None:
    """Write config, generation settings, tokenizer and weights to `to`, from the checkpoints in `run`."""
    codec = codec_of(run)
    to.mkdir(parents=True, exist_ok=True)
    model = build(save(to))
    model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")["model"])
    model.model.vqmodel.load_state_dict(codec)
    names = to / "tokenizer_config.json"
    names.write_text(
        names.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
    )  # its name before 5, too
    model.generation_config._from_model_config = False  # or else transformers 5 does not read generation_kwargs
    model.half()  # every weight lies well inside float16's range, and it keeps eight times finer steps than bfloat16
    model.save_pretrained(to)


def codec_of(run: Path) -> dict[str, torch.Tensor]:
    """The picture codec's weights: those trained in `run`, or else the shipped ones."""
    if (run / "pictures.pt").exists():
        return torch.load(run / "pictures.pt", weights_only=True, map_location="cpu")["vqmodel"]
    return JanusForConditionalGeneration.from_pretrained(SHIPPED).model.vqmodel.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--to", type=Path, default=SHIPPED)
    given = parser.parse_args()
    export(given.run, given.to)


if __name__ == "__main__":
    main()
