"""The tokenizer of the embedded model: byte-level BPE over the captions, with Janus-Pro's special tokens."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ssd_core.evaluate.scenes import sample

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BEGIN, END, PLACE = "<begin_of_image>", "<end_of_image>", "<image_placeholder>"
SPECIAL = (BOS, EOS, PAD, "<|User|>", "<|Assistant|>", BEGIN, END, PLACE)
VOCABULARY = 512


def build() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same on every machine. Any text can be encoded: bytes are its smallest pieces."""
    rng = random.Random(0)
    captions = [f"<|User|>: {sample(rng).caption}\n\n<|Assistant|>:" for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=4096
    )


def save(folder: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write it to `folder` as transformers keeps it."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    return tokenizer
