"""Runs on SD 2 and SDXL, and on checkpoints that predict v: what they learn from, and what they write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora_train.adapters.formats.kohya import load_adapter
from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.training.events import Sampled, Validated, Warned
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import Session, train
from tests.families import write_family
from tests.training.runs import of_kind, photos, tiny_config

CPU = torch.device("cpu")
LDM = r"lora_unet_(input_blocks_[45]_1|middle_block_1|output_blocks_[012]_1)_(proj_(in|out)|transformer_blocks_[01]_(attn[12]_to_(q|k|v|out_0)|ff_net_(0_proj|2)))"
DIFFUSERS = r"lora_unet_(down_blocks_0_attentions_[01]|mid_block_attentions_0|up_blocks_1_attentions_[012])_(proj_(in|out)|transformer_blocks_0_(attn[12]_to_(q|k|v|out_0)|ff_net_(0_proj|2)))"
TEXT = r"lora_te{}_text_model_encoder_layers_[{}]_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"
NAMES = {
    "sdxl": f"{LDM}|{TEXT.format(1, '0-2')}|{TEXT.format(2, '0-2')}",
    "sd2": f"{DIFFUSERS}|{TEXT.format('', '01')}",
}
"""kohya's names on the small checkpoints. The last layers of SD 2's encoder and of SDXL's first one have no effect."""
COUNTS = {"sdxl": 6 * (2 + 2 * 10) + 3 * 6 + 3 * 6, "sd2": 6 * (2 + 10) + 2 * 6}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    found = {family: write_family(folder, family) for family in ("sd2", "sdxl")}
    return found | {"v": write_family(folder, "sdxl", ("v_pred", "ztsnr"), name="v")}


@pytest.fixture
def run(files, tmp_path):
    """run(kind, **settings): trains; (config, the adapter's file, the run's events)."""

    def go(kind: str, **settings):
        values = {"prediction": "epsilon" if kind == "sd2" else "auto", **settings}
        config = tiny_config(tmp_path, files[kind], **values)
        events = []
        path = train(config, StandaloneHost(config.model, CPU), events.append)
        return config, path, events

    return go


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("family", NAMES)
class TestAFileOfItsFamily:
    @pytest.fixture
    def written(self, run, family):
        return run(family, train_text_encoder=True, max_steps=2)[1]

    def test_names_every_layer_as_kohya_does(self, written, family):
        layers = load_adapter(written).layers
        assert [name for name in layers if not re.fullmatch(NAMES[family], name)] == []
        assert len(layers) == COUNTS[family]

    def test_has_learned_in_every_layer(self, written, family):
        assert [name for name, layer in load_adapter(written).layers.items() if not layer.up.abs().max()] == []


VERSIONS = {
    ("sdxl", "auto"): ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "epsilon"),
    ("v", "auto"): ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "v"),
    ("sd2", "epsilon"): ("sd_v2", "True", "stable-diffusion-v2-512/lora", "epsilon"),
    ("sd2", "v"): ("sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "v"),
}


@pytest.mark.parametrize(("kind", "prediction"), VERSIONS)
def test_a_file_says_which_version_it_goes_with(run, kind, prediction):
    said = metadata(run(kind, prediction=prediction, max_steps=1)[1])
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(said[key] for key in keys) == VERSIONS[kind, prediction]


def test_convolutions_of_sdxl_have_ldms_names(run):
    names = set(load_adapter(run("sdxl", conv_rank=2, max_steps=1)[1]).layers)
    wanted = {
        "input_blocks_3_0_op",
        "input_blocks_1_0_in_layers_2",
        "input_blocks_4_0_out_layers_3",
        "input_blocks_4_0_emb_layers_1",
        "input_blocks_4_0_skip_connection",
        "middle_block_2_in_layers_2",
        "output_blocks_2_2_conv",
    }
    assert {f"lora_unet_{name}" for name in wanted} <= names


def test_sdxl_is_validated_and_drawn_as_it_is_trained(run):
    events = run(
        "v", max_steps=2, validation_images=1, validate_every_n_epochs=1, sample_every_n_epochs=1, sample_steps=2
    )[2]
    assert len(of_kind(events, Validated)) == 2
    assert len(of_kind(events, Sampled)) == 1
    assert of_kind(events, Warned) == []


def test_every_image_is_shown_with_its_own_sizes(run, monkeypatch, tmp_path):
    photos(tmp_path / "images", count=1, side=96)
    seen = []
    prepare = Session._make_adapter

    def listening(self):
        prepare(self)
        self.denoiser.unet.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(named["added_cond_kwargs"]["time_ids"].tolist()), with_kwargs=True
        )

    monkeypatch.setattr(Session, "_make_adapter", listening)
    run("sdxl", max_steps=1, batch_size=1, enable_bucket=False)
    assert seen == [[[96, 96, 0, 0, 64, 64]]]


class TestContinuing:
    def test_goes_on_with_a_file_of_the_same_family(self, run):
        first = run("sdxl", train_text_encoder=True, max_steps=1)[1]
        second = run("sdxl", name="second", continue_from=str(first), max_steps=1)[1]
        assert load_adapter(second).layers.keys() == load_adapter(first).layers.keys()

    @pytest.mark.parametrize(
        ("of", "on", "words"),
        [
            ("sdxl", "sd2", "is made for Stable Diffusion XL, and sd2 is Stable Diffusion 2.x"),
            ("sd2", "sdxl", "is made for Stable Diffusion 2.x, and sdxl is Stable Diffusion XL"),
        ],
    )
    def test_refuses_a_file_of_another_family_and_says_which(self, run, complaint, of, on, words):
        other = run(of, max_steps=1)[1]
        text = complaint(run, on, name="second", continue_from=str(other), max_steps=1)
        assert words in text
        assert text.startswith("continue_from: ")
        assert re.search(r"Choose an adapter that was made for Stable Diffusion (2\.x|XL)\.$", text)


def test_a_vae_that_gives_nan_is_refused_before_a_step(files, tmp_path, complaint):
    broken = tmp_path / "broken.safetensors"
    weights = load_file(files["sdxl"])
    weights["first_stage_model.encoder.conv_in.weight"][0] = torch.nan
    save_file(weights, broken)
    files["sdxl"].with_suffix("").rename(tmp_path / "kept")
    (tmp_path / "kept").rename(files["sdxl"].with_suffix(""))
    for extra in ({}, {"random_crop": True}):
        config = tiny_config(tmp_path, broken, tokenizer=str(files["sdxl"].with_suffix("")), **extra)
        assert "NaN" in complaint(train, config, StandaloneHost(config.model, CPU))


def test_a_plan_on_sdxl_times_a_step_and_knows_the_family(files, tmp_path):
    config: TrainConfig = tiny_config(tmp_path, files["sdxl"])
    plan = make_plan(config, StandaloneHost(config.model, CPU))
    assert "Stable Diffusion XL" in plan.checkpoint
    assert plan.seconds_per_step > 0
    assert plan.memory.activations > 0


class TestPrediction:
    def checkpoint(self, file: Path, **settings):
        with StandaloneHost(CheckpointConfig(checkpoint=str(file), **settings), CPU).lease() as checkpoint:
            return checkpoint

    def test_follows_the_files_marks(self, files):
        assert (self.checkpoint(files["v"]).prediction, self.checkpoint(files["v"]).zero_terminal_snr) == ("v", True)
        assert (self.checkpoint(files["sdxl"]).prediction, self.checkpoint(files["sdxl"]).zero_terminal_snr) == (
            "epsilon",
            False,
        )

    def test_may_be_set_against_them(self, files):
        assert not self.checkpoint(files["v"], zero_terminal_snr="off").zero_terminal_snr
        assert not self.checkpoint(files["v"], prediction="epsilon").zero_terminal_snr
        assert self.checkpoint(files["sdxl"], prediction="v", zero_terminal_snr="on").zero_terminal_snr

    def test_of_noise_where_all_is_noise_is_refused(self, run, complaint):
        assert "zero_terminal_snr: " in complaint(run, "sdxl", zero_terminal_snr="on")
