"""The second tokenizer: CLIP's own ids for the words of the vocabulary."""

import json
from itertools import pairwise

import pytest
from transformers import CLIPTokenizer

from tools.checkpoints.second_vocabulary import (
    known_merges,
    open_clip_config,
    second_text_config,
    write_second_tokenizer,
)
from tools.checkpoints.vocabulary import WORDS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    write_second_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(str(folder))


def test_a_caption_has_clips_token_ids(tokenizer):
    # As open_clip.tokenize returns them.
    caption = [49406, 320, 736, 7117, 525, 320, 1579, 5994, 49407]
    assert tokenizer("a red circle on a white background").input_ids == caption
    assert tokenizer("an orange triangle").input_ids == [49406, 550, 4287, 14615, 49407]


def test_padding_is_zeros(tokenizer):
    ids = tokenizer("a star", padding="max_length").input_ids
    assert ids == [49406, 320, 1565, 49407] + [0] * 73


def test_every_word_is_one_token_but_for_the_two_that_clip_splits(tokenizer):
    tokens = {word: len(tokenizer(word, add_special_tokens=False).input_ids) for word in WORDS}
    assert {word for word, count in tokens.items() if count != 1} == {"cyan", "outlined"}
    assert {tokens["cyan"], tokens["outlined"]} == {2}


def test_an_unknown_word_becomes_letters(tokenizer):
    assert tokenizer("sks", add_special_tokens=False).input_ids == [82, 74, 338]


def test_merges_are_in_the_order_of_their_ids_as_in_clip(tokenizer):
    numbers = [number for _, _, number in known_merges()]
    assert all(first < second for first, second in pairwise(numbers))
    assert numbers[0] >= 512
    assert numbers[-1] < 49406


def test_both_configs_describe_one_encoder():
    ours, theirs = second_text_config(), open_clip_config()
    text = theirs["text_cfg"]
    assert (ours["hidden_size"], ours["num_hidden_layers"]) == (text["width"], text["layers"])
    assert (ours["num_attention_heads"], ours["vocab_size"]) == (text["heads"], text["vocab_size"])
    assert ours["projection_dim"] == theirs["embed_dim"]
    assert json.loads(json.dumps(theirs)) == theirs
