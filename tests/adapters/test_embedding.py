"""The trigger word's embedding: its use in a text, its place in a file, and the adapter's strength."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.embedding import TriggerEmbedding, read_embedding, spread_rows
from lib_lora_train.adapters.formats.kohya import adapter_tensors, load_adapter, load_weights, save_adapter
from lib_lora_train.adapters.inspect import format_report, inspect_adapter
from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter

LAYER = {"lora_unet_x.lora_down.weight": torch.ones(1, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 1)}


@pytest.fixture
def trained(checkpoint):
    """trained(**settings): (the denoiser, an adapter with an embedding for sks)."""

    def make(**settings):
        config = TrainConfig.from_flat({"rank": 2, "trigger_word": "sks", "trigger_vectors": 2, **settings})
        denoiser = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        return denoiser, make_adapter(denoiser, config)

    return make


def embedded(denoiser: DiffusersDenoiser, text: str) -> torch.Tensor:
    """The text encoder's input embeddings without the positions: [77, width]."""
    (clip,) = denoiser.text.encoders
    inputs = []
    core = clip.encoder.text_model if hasattr(clip.encoder, "text_model") else clip.encoder
    hook = core.embeddings.register_forward_hook(lambda module, arguments, output: inputs.append(output))
    with torch.no_grad():
        denoiser.text.encode([text])
    hook.remove()
    return inputs[0][0] - core.embeddings.position_embedding.weight


class TestText:
    def test_has_the_vectors_in_place_of_the_word(self, trained, checkpoint):
        denoiser, adapter = trained()
        with torch.no_grad():
            adapter.embedding.vectors[0].copy_(torch.arange(32.0).reshape(2, 16))
        table = checkpoint.text_encoders[0].weights["text_model.embeddings.token_embedding.weight"]
        (clip,) = denoiser.text.encoders
        a, cat = clip.ids("a")[0], clip.ids("cat")[0]
        expected = [
            table[a],
            *torch.arange(32.0).reshape(2, 16),
            table[cat],
            table[a],
            *torch.arange(32.0).reshape(2, 16),
        ]
        torch.testing.assert_close(
            embedded(denoiser, "a SKS cat a sks")[1:9], torch.stack([*expected, table[clip.tokenizer.eos_token_id]])
        )

    def test_without_the_word_is_encoded_as_before(self, trained, checkpoint):
        denoiser, _adapter = trained()
        plain = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        for text in ("a red cat", "", "sksx cat", "s k s"):
            assert torch.equal(denoiser.text.encode([text]).context, plain.text.encode([text]).context)

    def test_uses_the_words_own_tokens_at_strength_0(self, trained, checkpoint):
        denoiser, adapter = trained()
        plain = DiffusersDenoiser.open(checkpoint, CheckpointConfig()).text.encode(["a sks cat"]).context
        assert not torch.equal(denoiser.text.encode(["a sks cat"]).context, plain)
        with adapter.strength(0):
            assert torch.equal(denoiser.text.encode(["a sks cat"]).context, plain)
        with adapter.strength(0.5):
            assert not torch.equal(denoiser.text.encode(["a sks cat"]).context, plain)

    @pytest.mark.parametrize(
        ("before", "positions"), [(73, [(0, 74), (0, 75)]), (74, [(1, 1), (1, 2)]), (75, [(1, 1), (1, 2)])]
    )
    def test_keeps_the_vectors_in_one_chunk_as_the_webuis_do(self, trained, before, positions):
        denoiser, _ = trained()
        (clip,) = denoiser.text.encoders
        chunks = clip.chunks(" ".join(["cat"] * before + ["sks", "cat"]), 150)
        own = [
            (i, j)
            for i, chunk in enumerate(chunks)
            for j, token in enumerate(chunk)
            if token >= clip.encoder.config.vocab_size
        ]
        assert own == positions
        assert {len(chunk) for chunk in chunks} == {77}


class TestStart:
    def test_is_the_class_words_embedding(self, trained, checkpoint):
        denoiser, adapter = trained(class_word="cat", trigger_vectors=1)
        (clip,) = denoiser.text.encoders
        table = checkpoint.text_encoders[0].weights["text_model.embeddings.token_embedding.weight"]
        torch.testing.assert_close(adapter.embedding.vectors[0], table[clip.ids("cat")])

    @pytest.mark.parametrize(
        ("words", "count", "expected"), [(1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (2, 4, [0, 0, 1, 1]), (4, 2, [0, 2])]
    )
    def test_spreads_several_tokens_evenly(self, words, count, expected):
        assert spread_rows(torch.arange(float(words))[:, None], count)[:, 0].tolist() == expected

    def test_gradients_reach_the_vectors_and_no_other_part_of_the_text_encoder(self, trained):
        denoiser, adapter = trained()
        denoiser.text.encode(["a sks cat"]).context.square().sum().backward()
        assert bool(adapter.embedding.vectors[0].grad.abs().sum() > 0)
        assert [p for p in denoiser.text_encoders.parameters() if p.grad is not None] == []


class TestFile:
    def test_has_the_keys_that_a1111_reads(self):
        one = TriggerEmbedding.starting_from("sks", [torch.ones(2, 3)])
        two = TriggerEmbedding.starting_from("sks", [torch.ones(2, 3), torch.ones(2, 5)])
        assert {key: tuple(t.shape) for key, t in one.state_dict().items()} == {
            "bundle_emb.sks.string_to_param.*": (2, 3)
        }
        shapes = {key: tuple(t.shape) for key, t in two.state_dict().items()}
        assert shapes == {"bundle_emb.sks.clip_l": (2, 3), "bundle_emb.sks.clip_g": (2, 5)}

    def test_gives_the_embedding_back(self, trained, tmp_path):
        denoiser, adapter = trained()
        with torch.no_grad():
            adapter.embedding.vectors[0].copy_(torch.arange(32.0).reshape(2, 16))
        save_adapter(tmp_path / "x.safetensors", adapter_tensors(adapter, "fp32"), {})
        other_denoiser, other = trained()
        load_weights(other, load_adapter(tmp_path / "x.safetensors"))
        assert torch.equal(other.embedding.vectors[0], adapter.embedding.vectors[0])
        assert torch.equal(other_denoiser.text.encode(["a sks"]).context, denoiser.text.encode(["a sks"]).context)

    def test_gives_a_run_that_continues_from_it_the_embedding(self, trained, tmp_path, checkpoint):
        _denoiser, adapter = trained(trigger_vectors=3)
        save_adapter(tmp_path / "x.safetensors", adapter_tensors(adapter, "fp32"), {})
        config = TrainConfig.from_flat({"continue_from": str(tmp_path / "x.safetensors")})
        fresh = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        continued = make_adapter(fresh, config)
        assert continued.embedding.word == "sks"
        assert torch.equal(continued.embedding.vectors[0], adapter.embedding.vectors[0])
        assert any(weight is continued.embedding.vectors[0] for weight in continued.parameters())

    def test_with_an_embedding_of_another_width_does_not_fit(self, trained, tmp_path, checkpoint, complaint):
        _denoiser, adapter = trained()
        tensors = {**adapter_tensors(adapter, "fp32"), "bundle_emb.sks.string_to_param.*": torch.ones(2, 99)}
        save_adapter(tmp_path / "x.safetensors", tensors, {})
        config = TrainConfig.from_flat({"continue_from": str(tmp_path / "x.safetensors")})
        assert "does not fit" in complaint(make_adapter, DiffusersDenoiser.open(checkpoint, CheckpointConfig()), config)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"bundle_emb.a.clip_l": torch.ones(1, 3)}, "The adapter's embedding a is damaged"),
            ({"bundle_emb.a.string_to_param.*": torch.ones(3)}, "The adapter's embedding a is damaged"),
            (
                {"bundle_emb.a.clip_l": torch.ones(1, 3), "bundle_emb.a.clip_g": torch.ones(2, 3)},
                "The adapter's embedding a is damaged",
            ),
            (
                {f"bundle_emb.{n}.string_to_param.*": torch.ones(1, 3) for n in "ab"},
                "The adapter contains 2 embeddings (a, b)",
            ),
        ],
    )
    def test_with_an_embedding_in_another_format_is_refused(self, tensors, message, complaint):
        assert complaint(read_embedding, tensors).startswith(message)

    def test_reports_its_embedding(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(
            safetensors.torch.save(
                {**LAYER, "bundle_emb.sks.clip_l": torch.ones(2, 768), "bundle_emb.sks.clip_g": torch.ones(2, 1280)}
            )
        )
        assert "  embedding  sks, 2 vectors of 768 and 1280 numbers" in format_report(
            inspect_adapter(tmp_path / "x.safetensors")
        )

    def test_is_not_saved_with_nan_in_the_vectors(self, trained, complaint):
        _, adapter = trained()
        with torch.no_grad():
            adapter.embedding.vectors[0][0, 0] = torch.nan
        assert "NaN" in complaint(adapter_tensors, adapter, "fp32")


@pytest.mark.parametrize(
    ("trigger_word", "fault"),
    [("", "Enter the word"), ("s.k", "cannot be an embedding"), ("(sks)", "cannot be an embedding")],
)
def test_a_trigger_word_that_cannot_be_an_embedding_is_refused(trigger_word, fault):
    config = TrainConfig.from_flat({"name": "x", "trigger_word": trigger_word, "trigger_vectors": 1})
    assert [problem.field for problem in config.problems()] == ["trigger_word"]
    assert fault in str(config.problems()[0])
