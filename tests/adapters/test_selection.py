"""Which layers get an adapter of which size, from the settings and from a file."""

import pytest
import torch
from torch import nn

from lib_lora_train.adapters.algorithms.lora import LoraLayer
from lib_lora_train.adapters.formats.kohya import AdapterFile
from lib_lora_train.adapters.selection import configured_targets, file_targets, selection_of
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.denoiser import LayerSelection, TargetLayer

LAYERS = [
    TargetLayer(nn.Linear(6, 10), "lora_unet_linear"),
    TargetLayer(nn.Conv2d(6, 10, 1), "lora_unet_point"),
    TargetLayer(nn.Conv2d(6, 10, 3), "lora_unet_wide"),
    TargetLayer(nn.Linear(4, 4), "lora_te_linear", text=True),
]


def sizes(targets) -> dict[str, tuple[int, float]]:
    return {target.layer.name.rpartition("_")[2]: (target.rank, target.alpha) for target in targets}


class TestConfigured:
    def test_wide_kernels_have_the_convolutions_rank_and_alpha(self):
        found = sizes(configured_targets(LAYERS[:3], AdapterConfig(rank=8, alpha=4, conv_rank=2, conv_alpha=1)))
        assert found == {"linear": (8, 4), "point": (8, 4), "wide": (2, 1)}

    def test_alpha_0_means_the_rank(self):
        found = sizes(configured_targets(LAYERS[:3], AdapterConfig(rank=8, alpha=0, conv_rank=2)))
        assert found == {"linear": (8, 8), "point": (8, 8), "wide": (2, 2)}

    def test_weights_are_counted_without_building_them(self):
        counts = [target.weight_count for target in configured_targets(LAYERS, AdapterConfig(rank=8, conv_rank=2))]
        assert counts == [8 * (6 + 10), 8 * (6 + 10), 2 * (6 * 9 + 10), 8 * (4 + 4)]

    @pytest.mark.parametrize(
        ("settings", "selection"),
        [
            ({}, LayerSelection()),
            ({"targets": "attention"}, LayerSelection(attention_only=True)),
            ({"conv_rank": 4}, LayerSelection(convolutions=True)),
            ({"train_text_encoder": True}, LayerSelection(text_encoders=True)),
        ],
    )
    def test_settings_select_layers(self, settings, selection):
        assert selection_of(AdapterConfig(**settings)) == selection


class TestOfAFile:
    @staticmethod
    def file(**shapes: tuple[int, int, int]) -> AdapterFile:
        """A file with layers (rank, in, out), alpha 3."""
        return AdapterFile(
            {
                name: LoraLayer(
                    {"lora_down.weight": torch.ones(rank, into), "lora_up.weight": torch.ones(out, rank)}, alpha=3.0
                )
                for name, (rank, into, out) in shapes.items()
            }
        )

    def test_have_the_files_ranks_and_alphas(self):
        targets = file_targets(LAYERS, self.file(lora_unet_linear=(5, 6, 10), lora_unet_point=(7, 6, 10)))
        assert sizes(targets) == {"linear": (5, 3.0), "point": (7, 3.0)}
        assert {target.algorithm for target in targets} == {LoraLayer}

    def test_text_encoders_come_last(self):
        targets = file_targets(LAYERS, self.file(lora_te_linear=(2, 4, 4), lora_unet_linear=(5, 6, 10)))
        assert [target.layer.name for target in targets] == ["lora_unet_linear", "lora_te_linear"]

    def test_layers_of_another_size_or_name_are_not_among_them(self):
        assert file_targets(LAYERS, self.file(lora_unet_linear=(5, 7, 10), lora_unet_other=(5, 6, 10))) == []
