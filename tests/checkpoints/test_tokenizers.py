"""Where a checkpoint's tokenizer and text-encoder config come from, and what happens when they are missing or damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lib_lora_train.checkpoints.tokenizers import load_tokenizer, second_folder, shared_text_encoders, tokenizer_folder


def encoder_of(checkpoint: Path, setting: str = ""):
    return shared_text_encoders([{}], setting, checkpoint)[0]


def write_vocabulary(folder: Path, tokens: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({str(number): number for number in range(tokens)}))
    return folder


def test_the_tokenizer_is_in_the_folder_with_the_checkpoints_name(miniature):
    tokenizer = encoder_of(miniature).tokenizer
    assert tokenizer.decode(tokenizer("a red star").input_ids, skip_special_tokens=True).strip() == "a red star"


def test_the_config_is_in_the_same_folder(own_copy):
    file = own_copy.with_suffix("") / "config.json"
    file.write_text(json.dumps({"num_attention_heads": 5, "hidden_size": 9}))
    assert encoder_of(own_copy).config == {"num_attention_heads": 5}


def test_a_damaged_config_is_refused(own_copy, complaint):
    file = own_copy.with_suffix("") / "config.json"
    file.write_text("{")
    assert complaint(encoder_of, own_copy) == f"tokenizer: {file} cannot be read. Fix or remove it."


def test_the_folder_in_the_settings_comes_first(own_copy):
    other = Path(shutil.copytree(own_copy.with_suffix(""), own_copy.parent / "other"))
    assert tokenizer_folder(str(other), own_copy) == other


def test_without_a_folder_it_is_clips_own(tmp_path):
    assert tokenizer_folder("", tmp_path / "any.safetensors") is None


def test_a_folder_without_a_tokenizer_is_refused(miniature, tmp_path, complaint):
    text = complaint(tokenizer_folder, str(tmp_path), miniature)
    assert text == f"tokenizer: {tmp_path} has no vocab.json and merges.txt. Choose the folder that contains them."


def test_a_damaged_tokenizer_is_refused(own_copy, complaint):
    (own_copy.with_suffix("") / "vocab.json").write_text("{")
    assert complaint(encoder_of, own_copy).startswith(f"tokenizer: {own_copy.with_suffix('')} cannot be read")


def test_clips_own_that_cannot_be_downloaded_is_explained(complaint, monkeypatch):
    monkeypatch.setattr("lib_lora_train.checkpoints.tokenizers.CLIP_TOKENIZER", "nobody/has-this")
    assert "Connect to the network once, or choose a folder" in complaint(load_tokenizer, None)


SECOND_ENCODER = {"token_embedding.weight": torch.zeros(7, 2)}
"""Weights of a text encoder with seven tokens."""


class TestTheSecondTokenizerOfSdxl:
    def test_is_in_tokenizer_2(self, tmp_path):
        first = write_vocabulary(tmp_path / "first", 7)
        second = write_vocabulary(first / "tokenizer_2", 3)
        assert second_folder(first, SECOND_ENCODER) == second

    @pytest.mark.parametrize(("tokens", "is_shared"), [(7, True), (8, False)])
    def test_is_the_first_one_if_it_has_as_many_tokens_as_the_encoder(self, tmp_path, tokens, is_shared):
        first = write_vocabulary(tmp_path / "first", tokens)
        assert second_folder(first, SECOND_ENCODER) == (first if is_shared else None)

    def test_is_clips_own_if_the_first_one_is(self):
        assert second_folder(None, SECOND_ENCODER) is None
