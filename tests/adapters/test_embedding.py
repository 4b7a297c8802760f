"""The learned word: what is in the file, what a text becomes by it, and that it goes with the adapter's strength."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.embedding import TriggerEmbedding, read_embedding, spread_rows
from lib_lora_train.adapters.file import adapter_tensors, load_adapter, load_weights, save_adapter
from lib_lora_train.adapters.inspect import format_report, inspect_adapter
from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.setup import make_adapter

LAYER = {"lora_unet_x.lora_down.weight": torch.ones(1, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 1)}


@pytest.fixture
def trained(checkpoint):
    """taught(**settings): (the parts, an adapter whose word is sks)."""

    def make(**settings):
        config = TrainConfig.from_flat({"rank": 2, "trigger_word": "sks", "trigger_vectors": 2, **settings})
        parts = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        return parts, make_adapter(parts, config)

    return make


def embedded(parts: DiffusersDenoiser, text: str) -> torch.Tensor:
    """What goes into the text encoder's first layer, less the positions: [77, width]."""
    (clip,) = parts.text.encoders
    seen = []
    core = clip.encoder.text_model if hasattr(clip.encoder, "text_model") else clip.encoder
    hook = core.embeddings.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        parts.text.encode([text])
    hook.remove()
    return seen[0][0] - core.embeddings.position_embedding.weight


class TestAText:
    def test_has_the_vectors_where_the_word_stands(self, trained, checkpoint):
        parts, adapter = trained()
        with torch.no_grad():
            adapter.word.vectors[0].copy_(torch.arange(32.0).reshape(2, 16))
        table = checkpoint.text_encoders[0].weights["text_model.embeddings.token_embedding.weight"]
        (clip,) = parts.text.encoders
        a, cat = clip.ids("a")[0], clip.ids("cat")[0]
        expected = [
            table[a],
            *torch.arange(32.0).reshape(2, 16),
            table[cat],
            table[a],
            *torch.arange(32.0).reshape(2, 16),
        ]
        torch.testing.assert_close(
            embedded(parts, "a SKS cat a sks")[1:9], torch.stack([*expected, table[clip.tokenizer.eos_token_id]])
        )

    def test_without_the_word_is_what_it_was_before(self, trained, checkpoint):
        parts, _adapter = trained()
        plain = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        for text in ("a red cat", "", "sksx cat", "s k s"):
            assert torch.equal(parts.text.encode([text]).context, plain.text.encode([text]).context)

    def test_reads_the_word_as_any_other_at_strength_0(self, trained, checkpoint):
        parts, adapter = trained()
        plain = DiffusersDenoiser.open(checkpoint, CheckpointConfig()).text.encode(["a sks cat"]).context
        assert not torch.equal(parts.text.encode(["a sks cat"]).context, plain)
        with adapter.strength(0):
            assert torch.equal(parts.text.encode(["a sks cat"]).context, plain)
        with adapter.strength(0.5):
            assert not torch.equal(parts.text.encode(["a sks cat"]).context, plain)

    @pytest.mark.parametrize(
        ("before", "places"), [(73, [(0, 74), (0, 75)]), (74, [(1, 1), (1, 2)]), (75, [(1, 1), (1, 2)])]
    )
    def test_keeps_the_vectors_together_across_a_chunks_end_as_the_webui_does(self, trained, before, places):
        parts, _ = trained()
        (clip,) = parts.text.encoders
        chunks = clip.chunks(" ".join(["cat"] * before + ["sks", "cat"]), 150)
        own = [
            (i, j)
            for i, chunk in enumerate(chunks)
            for j, token in enumerate(chunk)
            if token >= clip.encoder.config.vocab_size
        ]
        assert own == places
        assert {len(chunk) for chunk in chunks} == {77}


class TestTheBeginning:
    def test_is_the_class_word(self, trained, checkpoint):
        parts, adapter = trained(class_word="cat", trigger_vectors=1)
        (clip,) = parts.text.encoders
        table = checkpoint.text_encoders[0].weights["text_model.embeddings.token_embedding.weight"]
        torch.testing.assert_close(adapter.word.vectors[0], table[clip.ids("cat")])

    @pytest.mark.parametrize(
        ("words", "count", "expected"), [(1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (2, 4, [0, 0, 1, 1]), (4, 2, [0, 2])]
    )
    def test_spreads_several_words_evenly(self, words, count, expected):
        assert spread_rows(torch.arange(float(words))[:, None], count)[:, 0].tolist() == expected

    def test_asks_for_gradients_in_the_vectors_and_in_no_other_part_of_the_text_encoder(self, trained):
        parts, adapter = trained()
        parts.text.encode(["a sks cat"]).context.square().sum().backward()
        assert bool(adapter.word.vectors[0].grad.abs().sum() > 0)
        assert [p for p in parts.text_encoders.parameters() if p.grad is not None] == []


class TestTheFile:
    def test_has_the_keys_that_a1111_reads(self):
        one = TriggerEmbedding.begun("sks", [torch.ones(2, 3)])
        two = TriggerEmbedding.begun("sks", [torch.ones(2, 3), torch.ones(2, 5)])
        assert {key: tuple(t.shape) for key, t in one.tensors(torch.float16).items()} == {
            "bundle_emb.sks.string_to_param.*": (2, 3)
        }
        shapes = {key: tuple(t.shape) for key, t in two.tensors(torch.float16).items()}
        assert shapes == {"bundle_emb.sks.clip_l": (2, 3), "bundle_emb.sks.clip_g": (2, 5)}

    def test_gives_the_word_back(self, trained, tmp_path):
        parts, adapter = trained()
        with torch.no_grad():
            adapter.word.vectors[0].copy_(torch.arange(32.0).reshape(2, 16))
        save_adapter(tmp_path / "x.safetensors", adapter_tensors(adapter, "fp32"), {})
        other_parts, other = trained()
        load_weights(other, load_adapter(tmp_path / "x.safetensors"))
        assert torch.equal(other.word.vectors[0], adapter.word.vectors[0])
        assert torch.equal(other_parts.text.encode(["a sks"]).context, parts.text.encode(["a sks"]).context)

    def test_brings_its_word_to_a_run_that_continues_from_it(self, trained, tmp_path, checkpoint):
        _parts, adapter = trained(trigger_vectors=3)
        save_adapter(tmp_path / "x.safetensors", adapter_tensors(adapter, "fp32"), {})
        config = TrainConfig.from_flat({"continue_from": str(tmp_path / "x.safetensors")})
        fresh = DiffusersDenoiser.open(checkpoint, CheckpointConfig())
        continued = make_adapter(fresh, config)
        assert continued.word.word == "sks"
        assert torch.equal(continued.word.vectors[0], adapter.word.vectors[0])
        assert any(weight is continued.word.vectors[0] for weight in continued.parameters())

    def test_of_another_width_does_not_fit(self, trained, tmp_path, checkpoint, complaint):
        _parts, adapter = trained()
        tensors = {**adapter_tensors(adapter, "fp32"), "bundle_emb.sks.string_to_param.*": torch.ones(2, 99)}
        save_adapter(tmp_path / "x.safetensors", tensors, {})
        config = TrainConfig.from_flat({"continue_from": str(tmp_path / "x.safetensors")})
        assert "does not fit" in complaint(make_adapter, DiffusersDenoiser.open(checkpoint, CheckpointConfig()), config)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"bundle_emb.a.clip_l": torch.ones(1, 3)}, "The adapter's word a is damaged"),
            ({"bundle_emb.a.string_to_param.*": torch.ones(3)}, "The adapter's word a is damaged"),
            (
                {"bundle_emb.a.clip_l": torch.ones(1, 3), "bundle_emb.a.clip_g": torch.ones(2, 3)},
                "The adapter's word a is damaged",
            ),
            (
                {f"bundle_emb.{n}.string_to_param.*": torch.ones(1, 3) for n in "ab"},
                "The adapter brings 2 words (a, b)",
            ),
        ],
    )
    def test_with_a_word_of_another_form_is_refused(self, tensors, message, complaint):
        assert complaint(read_embedding, tensors).startswith(message)

    def test_tells_inspect_of_its_word(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(
            safetensors.torch.save(
                {**LAYER, "bundle_emb.sks.clip_l": torch.ones(2, 768), "bundle_emb.sks.clip_g": torch.ones(2, 1280)}
            )
        )
        assert "  word     sks, 2 vectors of 768 and 1280 numbers" in format_report(
            inspect_adapter(tmp_path / "x.safetensors")
        )

    def test_is_not_written_with_numbers_that_are_none(self, trained, complaint):
        _, adapter = trained()
        with torch.no_grad():
            adapter.word.vectors[0][0, 0] = torch.nan
        assert "NaN" in complaint(adapter_tensors, adapter, "fp32")


@pytest.mark.parametrize(
    ("trigger_word", "fault"), [("", "is empty"), ("s.k", "cannot be learned as a word"), ("(sks)", "cannot")]
)
def test_a_trigger_that_cannot_be_a_word_is_refused(trigger_word, fault):
    config = TrainConfig.from_flat({"name": "x", "trigger_word": trigger_word, "trigger_vectors": 1})
    assert [problem.field for problem in config.problems()] == ["trigger_word"]
    assert fault in str(config.problems()[0])


def test_vectors_learn_at_their_own_rate_and_do_not_decay(trained):
    from lib_lora_train.config import OptimizerConfig
    from lib_lora_train.training.optimizers import make_optimizer

    _, adapter = trained()
    optimizer = make_optimizer(
        adapter, OptimizerConfig(learning_rate=1e-3, embedding_learning_rate=2e-2), torch.device("cpu")
    )
    last = SimpleNamespace(**optimizer.param_groups[-1])
    assert (last.lr, last.weight_decay) == (2e-2, 0.0)
    assert last.params[0] is adapter.word.vectors[0]
