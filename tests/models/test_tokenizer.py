from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ssd_core import UserError
from ssd_core.models.tokenizer import ASSISTANT, BEGIN, BOS, PAD, USER, JanusTokenizer
from tests.models import small


def content() -> dict[str, Any]:
    """A tokenizer.json, to be changed."""
    own: dict[str, Any] = json.loads(small.tokenizer().backend_tokenizer.to_str())
    return own


def read(own: dict[str, Any]) -> JanusTokenizer:
    return JanusTokenizer(json.dumps(own), "a/tokenizer.json")


def without(own: dict[str, Any], *tokens: str) -> dict[str, Any]:
    """The same tokenizer for which these tokens are text like any other."""
    own["added_tokens"] = [token for token in own["added_tokens"] if token["content"] not in tokens]
    own["model"]["vocab"] = {token: at for token, at in own["model"]["vocab"].items() if token not in tokens}
    return own


JANUS, SPELLED = read(content()), read(without(content(), USER, ASSISTANT))
# the same files as they are: they take a whole template at once, with its special tokens in the text
WHOLE = Tokenizer.from_str(json.dumps(content()))
WHOLE_SPELLED = Tokenizer.from_str(json.dumps(without(content(), USER, ASSISTANT)))
SPECIAL = [token["content"] for token in content()["added_tokens"]]
ORDINARY = st.text().filter(lambda text: not any(token in text for token in SPECIAL))


def test_special_tokens_are_looked_up_by_name() -> None:
    ids = small.tokenizer().convert_tokens_to_ids([BOS, PAD, BEGIN])
    assert [JANUS.bos, JANUS.pad, JANUS.begin] == ids
    moved = content()
    for token in moved["added_tokens"]:
        token["id"] += 1000
        moved["model"]["vocab"][token["content"]] += 1000
    tokenizer = read(moved)
    assert [tokenizer.bos, tokenizer.pad, tokenizer.begin] == [1000 + at for at in ids]
    assert tokenizer.size == 1000 + len(SPECIAL)


@settings(deadline=None, max_examples=50)
@given(ORDINARY)
def test_an_ordinary_prompt_gives_the_ids_of_the_whole_template(prompt: str) -> None:
    template = f"<|User|>: {prompt.strip()}\n\n<|Assistant|>:<begin_of_image>"
    assert JANUS.encode(prompt) == WHOLE.encode(template).ids


@settings(deadline=None, max_examples=50)
@given(ORDINARY)
def test_without_tokens_for_them_the_roles_are_spelled(prompt: str) -> None:
    template = f"User: {prompt.strip()}\n\nAssistant:<begin_of_image>"
    assert SPELLED.encode(prompt) == WHOLE_SPELLED.encode(template).ids


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_typed_by_a_user_are_text(token: str) -> None:
    plain, ids = JANUS.encode("a red circle"), JANUS.encode(f"a red {token} circle")
    own: Any = small.tokenizer().convert_tokens_to_ids(token)
    assert ids.count(own) == plain.count(own)
    assert token in small.tokenizer().decode(ids[2:-3])


def test_a_template_token_is_text_even_where_the_file_does_not_call_it_special() -> None:
    own = content()
    for token in own["added_tokens"]:
        token["special"] = False
    assert read(own).encode(f"a {BEGIN} b") == JANUS.encode(f"a {BEGIN} b")


def test_other_added_tokens_stay_what_they_are() -> None:
    """DeepSeek's tokenizers hold some letters as added tokens that are not special."""
    own = content()
    own["added_tokens"].append({**own["added_tokens"][0], "id": JANUS.size, "content": "œ", "special": False})
    assert read(own).encode("two œufs").count(JANUS.size) == 1


def test_truncation_and_padding_in_the_file_are_left_out() -> None:
    own = content()
    own["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    own["padding"] = {
        "strategy": {"Fixed": 32},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": PAD,
    }
    assert read(own).encode("a big red circle") == JANUS.encode("a big red circle")


@pytest.mark.parametrize("token", [BOS, PAD, BEGIN])
def test_a_tokenizer_without_the_special_tokens_is_refused(token: str) -> None:
    own = without(content(), token)
    own["post_processor"] = None
    with pytest.raises(UserError, match=r"^a/tokenizer.json lacks the special token .* that came with the weights\.$"):
        read(own)


@pytest.mark.parametrize("text", ["", "{}", '{"added_tokens": []}', "[1]", '{"added_tokens": [{}]}'])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^a/tokenizer.json is not a tokenizer that can be read \("):
        JanusTokenizer(text, "a/tokenizer.json")
