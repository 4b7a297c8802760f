"""The text cache returns what the denoiser encodes, and encodes each caption once."""

import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.text_cache import TextCache
from tests.model.diffusers_view.test_text import words


@pytest.fixture
def denoiser(checkpoint) -> DiffusersDenoiser:
    return DiffusersDenoiser.open(checkpoint, CheckpointConfig(max_tokens=225))


@pytest.fixture
def encoded(denoiser, monkeypatch) -> list[str]:
    """The texts that the denoiser encodes."""
    texts, original = [], denoiser.encode_text
    monkeypatch.setattr(denoiser, "encode_text", lambda captions: texts.extend(captions) or original(captions))
    return texts


@torch.no_grad()
def test_it_returns_what_the_denoiser_encodes(denoiser):
    cache, texts = TextCache(denoiser), ["a cat", words(100), "", words(200), "a cat"]
    for _ in range(2):
        expected = denoiser.encode_text(texts).context
        torch.testing.assert_close(cache.encode(texts).context, expected, atol=1e-5, rtol=0)


def test_features_do_not_depend_on_the_other_texts_of_a_batch(denoiser):
    alone = TextCache(denoiser).encode(["a cat"]).context[0]
    assert torch.equal(TextCache(denoiser).encode(["a red star", "a cat"]).context[1], alone)


def test_it_encodes_each_text_once(denoiser, encoded):
    cache = TextCache(denoiser)
    cache.encode(["a", "b", "a"])
    cache.encode(["b", "a", "c"])
    assert sorted(encoded) == ["a", "b", "c"]


def test_with_padding_encoded_no_text_is_encoded_again_whatever_their_lengths(denoiser, encoded):
    cache, texts = TextCache(denoiser), ["a cat", words(100)]
    for text in texts:
        cache.encode([text])
    cache.encode_padding()
    encoded.clear()
    assert cache.encode(texts).context.shape == (2, 154, 16)
    assert encoded == []


def test_the_least_recently_used_text_is_dropped_first(denoiser, encoded):
    cache = TextCache(denoiser, capacity=2)
    for texts in (["a", "b"], ["a"], ["c"]):
        cache.encode(texts)
    encoded.clear()
    cache.encode(["a", "c"])
    cache.encode(["b"])
    assert encoded == ["b"]


def test_it_exceeds_its_capacity_for_one_batch_only(denoiser):
    cache = TextCache(denoiser, capacity=2)
    assert cache.encode(["a", "b", "c", "d"]).context.shape == (4, 77, 16)
    assert len(cache._features) == 2


def test_it_has_no_gradients(denoiser):
    denoiser.text_encoders.requires_grad_(True)
    assert not TextCache(denoiser).encode(["a cat"]).context.requires_grad


class TestFolder:
    def test_features_are_read_back_bit_by_bit_instead_of_encoded(self, denoiser, encoded, tmp_path):
        first = TextCache(denoiser, folder=tmp_path).encode(["a cat", "star"])
        encoded.clear()
        assert torch.equal(TextCache(denoiser, folder=tmp_path).encode(["a cat", "star"]).context, first.context)
        assert encoded == []

    @pytest.mark.parametrize("content", [b"", b"not safetensors"])
    def test_a_damaged_file_is_written_again(self, denoiser, encoded, tmp_path, content):
        first = TextCache(denoiser, folder=tmp_path).encode(["a cat"])
        (file,) = (path for path in tmp_path.rglob("*.safetensors"))
        whole = file.read_bytes()
        file.write_bytes(content)
        encoded.clear()
        assert torch.equal(TextCache(denoiser, folder=tmp_path).encode(["a cat"]).context, first.context)
        assert encoded == ["a cat"]
        assert file.read_bytes() == whole

    def test_other_settings_do_not_share_features(self, checkpoint, denoiser, tmp_path):
        TextCache(denoiser, folder=tmp_path).encode(["a cat"])
        other = DiffusersDenoiser.open(checkpoint, CheckpointConfig(clip_skip=2))
        expected = other.encode_text(["a cat"]).context
        assert torch.equal(TextCache(other, folder=tmp_path).encode(["a cat"]).context, expected)
