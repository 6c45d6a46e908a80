"""Janus' prompt encoder: its chat template and its tokenizer.json, read as it is."""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from ..errors import UserError

BOS, PAD, BEGIN = "<｜begin▁of▁sentence｜>", "<｜▁pad▁｜>", "<begin_of_image>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
TEMPLATE = (BOS, PAD, BEGIN, USER, ASSISTANT)


class JanusTokenizer:
    """Text to ids in the template that Janus draws from: the official one, without a system prompt.

    It is built from tokenizer.json alone: where tokenizer_config.json names a class of transformers, that class brings
    its own idea of how text is split.
    """

    def __init__(self, text: str, source: str) -> None:
        """text: the content of a tokenizer.json; source: what to call it in errors."""
        try:
            content = json.loads(text)
            for token in content["added_tokens"]:
                token["special"] |= token["content"] in TEMPLATE
            self.tokenizer = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{source} is not a tokenizer that can be read ({error}); download it again.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # special tokens in a text become plain text: those of the template are put in by their ids
        self.tokenizer.encode_special_tokens = True
        self.bos, self.pad, self.begin = (self._required(token, source) for token in (BOS, PAD, BEGIN))
        self.user, self.assistant = (self.tokenizer.token_to_id(token) for token in (USER, ASSISTANT))

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, prompt: str) -> list[int]:
        """Ids of the prompt in the chat template, from begin-of-sentence to begin-of-image.

        Special tokens typed inside the prompt are plain text.
        """
        prompt = prompt.strip()
        if self.user is None or self.assistant is None:  # Janus-1.3B spells its roles
            return [self.bos, *self._text(f"User: {prompt}\n\nAssistant:"), self.begin]
        question, answer = self._text(f": {prompt}\n\n"), self._text(":")
        return [self.bos, self.user, *question, self.assistant, *answer, self.begin]

    def _text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _required(self, token: str, source: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                f"{source} lacks the special token {token}, so it is not the tokenizer of a Janus; "
                "take the one that came with the weights."
            )
        return number
