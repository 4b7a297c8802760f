"""The metadata of an adapter file, in the keys and forms of kohya's sd-scripts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lib_lora_train.adapters.metadata import DatasetSummary, build_metadata, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD1, SD2, SDXL, Family

CATS = DatasetSummary(
    batches_per_epoch=6, images=4, regularization_images=3, repeats=3, tags={"cat": 4}, buckets={(64, 48): 12}
)


def metadata(
    summary: DatasetSummary = CATS, family: Family = SD1, prediction: str = "epsilon", **settings: object
) -> dict[str, str]:
    """Of the file cat-000002, after step 20 of 50, in epoch 2."""
    checkpoint = SimpleNamespace(
        name="base",
        family=family,
        prediction=prediction,
        zero_terminal_snr=False,
        legacy_hash=lambda: "1234abcd",
        sha256=lambda: "f00d",
    )
    return build_metadata(TrainConfig.from_flat(settings), checkpoint, summary, "cat-000002", 20, 50, 2)


def values(found: dict[str, str], *keys: str) -> list[str]:
    return [found[f"ss_{key}"] for key in keys]


def test_the_file_its_epoch_and_its_step():
    found = metadata()
    assert values(found, "output_name", "epoch", "steps", "max_train_steps") == ["cat-000002", "2", "20", "50"]


def test_the_checkpoint_and_its_hashes():
    found = metadata()
    assert values(found, "sd_model_name", "sd_model_hash", "new_sd_model_hash") == ["base", "1234abcd", "f00d"]


class TestTheNetwork:
    def test_has_its_rank_and_alpha(self):
        assert values(metadata(rank=8, alpha=2.0), "network_dim", "network_alpha") == ["8", "2.0"]

    def test_of_alpha_0_has_the_rank_as_alpha(self):
        assert values(metadata(rank=8, alpha=0.0), "network_dim", "network_alpha") == ["8", "8"]

    @pytest.mark.parametrize(
        ("settings", "arguments"),
        [
            ({}, {}),
            ({"conv_rank": 4, "conv_alpha": 1.0}, {"conv_dim": "4", "conv_alpha": "1.0"}),
            ({"conv_rank": 4, "conv_alpha": 0.0}, {"conv_dim": "4", "conv_alpha": "4"}),
        ],
    )
    def test_names_its_convolutions_if_it_has_any(self, settings, arguments):
        assert json.loads(metadata(**settings)["ss_network_args"]) == arguments


class TestTheTextEncodersLearningRate:
    def test_is_half_the_unets_unless_set(self):
        found = metadata(learning_rate=2e-4, train_text_encoder=True)
        assert values(found, "learning_rate", "unet_lr", "text_encoder_lr") == ["0.0002", "0.0002", "0.0001"]

    def test_is_the_one_that_is_set(self):
        found = metadata(learning_rate=2e-4, text_encoder_learning_rate=5e-4, train_text_encoder=True)
        assert values(found, "text_encoder_lr") == ["0.0005"]

    def test_is_none_if_the_text_encoder_is_not_trained(self):
        assert values(metadata(text_encoder_learning_rate=5e-4), "text_encoder_lr") == ["None"]


@pytest.mark.parametrize(
    ("key", "settings", "value"),
    [
        ("clip_skip", {"clip_skip": 1}, "None"),
        ("clip_skip", {"clip_skip": 2}, "2"),
        ("min_snr_gamma", {"loss_weighting": "none", "min_snr_gamma": 7.0}, "None"),
        ("min_snr_gamma", {"loss_weighting": "min_snr", "min_snr_gamma": 7.0}, "7.0"),
        ("noise_offset", {"noise_offset": 0.0}, "None"),
        ("noise_offset", {"noise_offset": 0.05}, "0.05"),
    ],
)
def test_a_setting_without_effect_is_none(key, settings, value):
    assert values(metadata(**settings), key) == [value]


@pytest.mark.parametrize(
    ("family", "prediction", "version", "v2", "architecture"),
    [
        (SD1, "epsilon", "sd_v1", "False", "stable-diffusion-v1/lora"),
        (SD2, "epsilon", "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        (SD2, "v", "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        (SDXL, "v", "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_the_kind_of_checkpoint(family, prediction, version, v2, architecture):
    found = metadata(family=family, prediction=prediction)
    assert values(found, "base_model_version", "v2") == [version, v2]
    assert values(found, "v_parameterization") == [str(prediction == "v")]
    assert (found["modelspec.architecture"], found["modelspec.prediction_type"]) == (architecture, prediction)


class TestTheDataset:
    def test_is_a_folder_with_its_repeats_in_front_as_kohya_names_folders(self):
        found = metadata(dataset_folder="/home/ann/cats")
        assert json.loads(found["ss_tag_frequency"]) == {"3_cats": {"cat": 4}}
        assert json.loads(found["ss_dataset_dirs"]) == {"3_cats": {"n_repeats": 3, "img_count": 4}}

    def test_has_its_numbers_and_buckets(self):
        found = metadata(resolution=768)
        assert values(found, "num_train_images", "num_reg_images", "num_batches_per_epoch") == ["4", "3", "6"]
        assert found["ss_resolution"] == "(768, 768)"
        assert json.loads(found["ss_bucket_info"]) == {"buckets": {"0": {"resolution": [64, 48], "count": 12}}}

    def test_is_empty_for_a_method_without_images(self):
        found = metadata(DatasetSummary(batches_per_epoch=6), dataset_folder="/home/ann/cats")
        assert values(found, "num_train_images", "tag_frequency", "dataset_dirs") == ["0", "{}", "{}"]


def test_the_settings_are_there_without_the_folders_of_their_author():
    folders = {"lora_dir": "/home/ann/Lora", "runs_dir": "/home/ann/runs", "dataset_folder": "/home/ann/cats"}
    found = metadata(**folders, checkpoint="/home/ann/base.safetensors", rank=7)
    assert "ann" not in " ".join(found.values())
    settings = TrainConfig.from_toml(found["lora_train_config"])
    assert (settings.adapter.rank, settings.dataset.dataset_folder) == (7, "cats")
    assert settings.model.checkpoint == "base.safetensors"


def test_tags_are_counted_over_all_captions_the_most_frequent_first():
    assert list(tag_frequency(["a cat, sitting", "a dog,  sitting ,", "a bird, sitting"]).items()) == [
        ("sitting", 3),
        ("a bird", 1),
        ("a cat", 1),
        ("a dog", 1),
    ]
