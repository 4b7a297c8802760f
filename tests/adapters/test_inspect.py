"""The report on an adapter file: its numbers computed by hand, its text, and files of other trainers."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.inspect import block_of, format_report, inspect_adapter


def pair(
    name: str, rank: int = 2, size: int = 6, kernel: int = 0, alpha: float | None = 1.0
) -> dict[str, torch.Tensor]:
    """A layer of random numbers under kohya's names."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    tail, point = ((kernel, kernel), (1, 1)) if kernel else ((), ())
    tensors = {
        f"{name}.lora_down.weight": torch.randn((rank, size, *tail), generator=generator).half(),
        f"{name}.lora_up.weight": torch.randn((size, rank, *point), generator=generator).half(),
    }
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha).half()}


def norm_by_hand(tensors: dict[str, torch.Tensor], *names: str) -> float:
    total = 0.0
    for name in names:
        down, up = (tensors[f"{name}.lora_{part}.weight"].double().numpy() for part in ("down", "up"))
        scale = float(tensors[f"{name}.alpha"]) / len(down) if f"{name}.alpha" in tensors else 1.0
        total += (scale * up.reshape(len(up), -1) @ down.reshape(len(down), -1)).__pow__(2).sum()
    return math.sqrt(total)


Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
FF = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj"
CONV = "lora_unet_mid_block_resnets_0_conv1"
UP = "lora_unet_up_blocks_3_attentions_2_proj_in"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        **pair(Q),
        **pair(FF),
        **pair(CONV, rank=3, kernel=3, alpha=2.0),
        **pair(UP, kernel=1, alpha=None),
        **pair(TEXT),
    }


@pytest.fixture
def saved(tmp_path):
    def save(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None):
        path = tmp_path / "mycat.safetensors"
        safetensors.torch.save_file(tensors, path, metadata)
        return path

    return save


class TestReport:
    def test_counts_layers_ranks_and_alphas(self, tensors, saved):
        report = inspect_adapter(saved(tensors))
        assert report.algorithms == {"LoRA": 5}
        assert report.layers == {"UNet": 4, "text encoder": 1}
        assert report.ranks == {2: 4, 3: 1}
        assert report.alphas == {1.0: 3, 2.0: 2}  # a layer without alpha acts as if it were its rank
        assert report.dtypes == ["fp16"]
        assert report.size == saved(tensors).stat().st_size

    def test_names_the_targets(self, tensors, saved):
        assert inspect_adapter(saved(tensors)).targets == [
            "attention",
            "feed-forward",
            "projections around the transformers",
            "residual blocks",
            "with 3x3 convolutions",
        ]
        assert inspect_adapter(saved(pair(Q))).targets == ["attention"]

    def test_measures_the_change_by_block_in_the_order_of_the_data(self, tensors, saved):
        norms = inspect_adapter(saved(tensors)).norms
        expected = {"text encoder": [TEXT], "down 1": [Q, FF], "mid": [CONV], "up 3": [UP]}
        assert list(norms) == list(expected)
        for block, names in expected.items():
            assert norms[block] == pytest.approx(norm_by_hand(tensors, *names), rel=1e-9)

    def test_of_an_untrained_adapter_is_no_change(self, tensors, saved):
        zeros = {name: t * 0 if "lora_up" in name else t for name, t in tensors.items()}
        report = inspect_adapter(saved(zeros))
        assert set(report.norms.values()) == {0.0}
        assert "0.0000" in format_report(report)

    def test_reports_nan(self, saved):
        tensors = {name: t * np.nan for name, t in pair(Q).items() if "alpha" not in name}
        assert "nan" in format_report(inspect_adapter(saved(tensors)))

    def test_says_how_it_was_trained(self, saved):
        metadata = {
            "ss_sd_model_name": "v1-5",
            "ss_epoch": "3",
            "ss_num_epochs": "10",
            "ss_steps": "300",
            "ss_max_train_steps": "1000",
            "ss_learning_rate": "0.0001",
            "ss_num_train_images": "20",
            "ss_clip_skip": "None",
            "ss_seed": "",
        }
        assert inspect_adapter(saved(pair(Q), metadata)).training == {
            "base model": "v1-5",
            "epoch": "3 of 10",
            "step": "300 of 1000",
            "images": "20",
            "learning rate": "0.0001",
        }

    def test_has_no_control_characters_of_the_metadata(self, saved):
        metadata = {"ss_sd_model_name": "\x1b[31mred\nline" + "x" * 500}
        text = format_report(inspect_adapter(saved(pair(Q), metadata)))
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) < 150


class TestFilesOfOtherTrainers:
    @pytest.mark.parametrize(
        ("name", "block"),
        [
            ("lora_unet_input_blocks_1_1_proj_in", "down 0"),
            ("lora_unet_input_blocks_3_0_op", "down 0"),
            ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "down 1"),
            ("lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k", "down 2"),
            ("lora_unet_input_blocks_0_0", "other"),
            ("lora_unet_middle_block_1_proj_out", "mid"),
            ("lora_unet_output_blocks_0_1_proj_in", "up 0"),
            ("lora_unet_output_blocks_5_1_proj_in", "up 1"),
            ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text encoder 1"),
            ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "text encoder 2"),
            ("lora_unet_time_embedding_linear_1", "other"),
            ("something_else", "other"),
        ],
    )
    def test_are_assigned_to_blocks(self, saved, name, block):
        assert block_of(name) == block
        assert list(inspect_adapter(saved(pair(name))).norms) == [block]

    def test_without_metadata_are_read_too(self, tensors, saved):
        report = inspect_adapter(saved(tensors))
        assert report.training == {}
        assert "Training" not in format_report(report)

    def test_that_are_not_adapters_are_refused(self, saved, complaint):
        assert "is not an adapter" in complaint(inspect_adapter, saved({"fc.weight": torch.ones(2, 2)}))

    def test_that_are_missing_are_refused(self, tmp_path, complaint):
        assert "cannot be read" in complaint(inspect_adapter, tmp_path / "none.safetensors")


def test_the_text_has_three_sections(tensors, saved):
    text = format_report(inspect_adapter(saved(tensors, {"ss_sd_model_name": "v1-5"})))
    head, training, change = text.split("\n\n")
    assert head.splitlines()[0].startswith("mycat.safetensors  (")
    assert "type       LoRA" in head
    assert "rank       2 (4 layers), 3 (1 layer)" in head
    assert "layers     4 in the UNet, 1 in the text encoder" in head
    assert training.splitlines() == ["Training", "  base model  v1-5"]
    assert [line.split("  ")[1] for line in change.splitlines()[1:]] == ["text encoder", "down 1", "mid", "up 3"]
    longest = max(change.splitlines(), key=lambda line: line.count("#"))
    assert longest.count("#") == 30
