"""Text features: chunks and clip skip equal a CLIP text encoder written out by hand."""

import pytest
import torch
from torch.nn import functional

from lib_lora_train.model.diffusers_view.text import ClipText, TextEncoding
from lib_lora_train.model.diffusers_view.views import text_encoder_view
from lib_lora_train.model.family import SD1

HEADS = 2


def by_hand(weights: dict[str, torch.Tensor], ids: torch.Tensor, layers_skipped: int = 0) -> torch.Tensor:
    """CLIP's text transformer (Radford et al. 2021), features [B, 77, width]."""

    def part(name: str) -> torch.Tensor:
        return weights[f"text_model.{name}"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], part(f"{name}.weight"), part(f"{name}.bias"))

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, part(f"{name}.weight"), part(f"{name}.bias"))

    x = part("embeddings.token_embedding.weight")[ids] + part("embeddings.position_embedding.weight")[: ids.shape[1]]
    causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    layers = 1 + max(int(name.split(".")[3]) for name in weights if ".layers." in name)
    for i in range(layers - layers_skipped):
        name = f"encoder.layers.{i}"
        h = norm(x, f"{name}.layer_norm1")
        q, k, v = (linear(h, f"{name}.self_attn.{p}_proj").unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in "qkv")
        mixed = (q @ k.mT / q.shape[-1] ** 0.5 + causal).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{name}.self_attn.out_proj")
        h = linear(norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), f"{name}.mlp.fc2")
    return norm(x, "final_layer_norm")


@pytest.fixture
def encoding(checkpoint):
    def make(clip_skip: int = 1, max_tokens: int = 75) -> TextEncoding:
        clip = ClipText(checkpoint.text_encoders[0].tokenizer, text_encoder_view(checkpoint), SD1.text[0], clip_skip)
        return TextEncoding([clip], max_tokens)

    return make


def words(count: int) -> str:
    """A caption of `count` tokens."""
    return " ".join(["red", "cat", "star"][i % 3] for i in range(count))


class TestChunks:
    @pytest.mark.parametrize(
        ("tokens", "most", "chunks"),
        [
            (0, 75, 1),
            (1, 75, 1),
            (75, 75, 1),
            (76, 75, 1),
            (75, 150, 1),
            (76, 150, 2),
            (150, 150, 2),
            (151, 150, 2),
            (151, 225, 3),
            (400, 225, 3),
        ],
    )
    def test_are_as_many_as_the_caption_needs_up_to_the_limit(self, encoding, tokens, most, chunks):
        assert [len(chunk) for chunk in encoding().encoders[0].chunks(words(tokens), most)] == [77] * chunks

    def test_each_has_bos_and_eos_and_is_padded_with_eos(self, encoding, checkpoint):
        begin, end = (
            checkpoint.text_encoders[0].tokenizer.bos_token_id,
            checkpoint.text_encoders[0].tokenizer.eos_token_id,
        )
        ids = checkpoint.text_encoders[0].tokenizer(words(80), add_special_tokens=False).input_ids
        first, second = encoding().encoders[0].chunks(words(80), 150)
        assert first == [begin, *ids[:75], end]
        assert second == [begin, *ids[75:], *[end] * 71]

    def test_do_not_depend_on_case_or_surrounding_spaces(self, encoding):
        assert encoding().encoders[0].chunks("  A Red CAT ", 75) == encoding().encoders[0].chunks("a red cat", 75)


class TestFeatures:
    @pytest.mark.parametrize("clip_skip", [1, 2, 3])
    def test_are_those_of_the_layer_that_clip_skip_chooses(self, encoding, checkpoint, clip_skip):
        made = encoding(clip_skip=clip_skip)
        ids = torch.tensor(made.encoders[0].chunks("a red cat", 75))
        with torch.no_grad():
            torch.testing.assert_close(
                made.encode(["a red cat"]).context,
                by_hand(checkpoint.text_encoders[0].weights, ids, clip_skip - 1),
                atol=1e-5,
                rtol=0,
            )

    @torch.no_grad()
    def test_of_a_long_caption_are_its_chunks_one_after_the_other(self, encoding, checkpoint):
        made = encoding(max_tokens=150)
        first, second = (
            by_hand(checkpoint.text_encoders[0].weights, torch.tensor([chunk]))
            for chunk in made.encoders[0].chunks(words(100), 150)
        )
        torch.testing.assert_close(
            made.encode([words(100)]).context, torch.cat([first, second], dim=1), atol=1e-5, rtol=0
        )

    @torch.no_grad()
    def test_of_a_short_caption_beside_a_long_one_end_with_an_empty_chunk(self, encoding):
        made = encoding(max_tokens=150)
        both = made.encode(["a cat", words(100)]).context
        assert both.shape == (2, 154, 16)
        torch.testing.assert_close(
            both[0], torch.cat([made.encode([text]).context[0] for text in ("a cat", "")]), atol=1e-5, rtol=0
        )

    def test_carry_gradients_to_an_encoder_that_is_trained(self, encoding):
        made = encoding()
        made.encoders[0].encoder.requires_grad_(True)
        made.encode(["a cat"]).context.sum().backward()
        assert next(made.encoders[0].encoder.parameters()).grad is not None
