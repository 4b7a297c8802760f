"""The host of a checkpoint file: tensors stay mapped from disk if their precision fits, and are converted otherwise."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora_train.checkpoints.reading import CheckpointFile
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.standalone import StandaloneHost, choose_precision
from lib_lora_train.model.diffusers_view.views import vae_view
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

CPU = torch.device("cpu")


def shared_from(path: Path, **settings: object) -> SharedCheckpoint:
    with StandaloneHost(CheckpointConfig(checkpoint=str(path), **settings), CPU).lease() as checkpoint:
        return checkpoint


def mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Where in this process's memory the file is mapped."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [tuple(int(address, 16) for address in line[0].split("-")) for line in lines]


class TestSharedCheckpoint:
    def test_has_everything_in_the_file_under_the_parts_own_names(self, miniature, checkpoint):
        file = load_file(miniature)
        parts = {
            "model.diffusion_model.": checkpoint.unet,
            "first_stage_model.": checkpoint.vae,
            "cond_stage_model.transformer.": checkpoint.text_encoders[0].weights,
        }
        assert sum(map(len, parts.values())) == len(file)
        for prefix, part in parts.items():
            for name, tensor in part.items():
                assert torch.equal(tensor, file[prefix + name])

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
    def test_stays_on_disk_if_the_precision_fits(self, miniature, checkpoint):
        ranges = mapped_ranges(miniature)
        tensors = [*checkpoint.unet.values(), *checkpoint.vae.values(), *checkpoint.text_encoders[0].weights.values()]
        assert all(any(low <= tensor.data_ptr() < high for low, high in ranges) for tensor in tensors)

    def test_is_converted_from_fp16(self, own_copy):
        half = {name: tensor.half() for name, tensor in load_file(own_copy).items()}
        save_file(half, own_copy)
        unet = shared_from(own_copy).unet
        assert {tensor.dtype for tensor in unet.values()} == {torch.float32}
        assert all(torch.equal(tensor, half[f"model.diffusion_model.{name}"].float()) for name, tensor in unet.items())

    def test_has_the_unet_in_the_chosen_precision_and_the_rest_as_in_the_file(self, own_copy):
        save_file({name: tensor.half() for name, tensor in load_file(own_copy).items()}, own_copy)
        checkpoint = shared_from(own_copy, precision="bf16")
        assert {tensor.dtype for tensor in checkpoint.unet.values()} == {torch.bfloat16}
        assert {t.dtype for part in (checkpoint.vae, checkpoint.text_encoders[0].weights) for t in part.values()} == {
            torch.float16
        }

    def test_has_the_vae_in_full_precision_while_it_is_on_the_device(self, own_copy):
        save_file({name: tensor.half() for name, tensor in load_file(own_copy).items()}, own_copy)
        checkpoint = shared_from(own_copy)
        vae = vae_view(checkpoint)
        before = {name: p.data_ptr() for name, p in vae.named_parameters()}
        with checkpoint.on_device(vae):
            assert {p.dtype for p in vae.parameters()} == {torch.float32}
        assert {name: p.data_ptr() for name, p in vae.named_parameters()} == before

    def test_leaves_out_ema_weights_and_the_vaes_loss(self, own_copy):
        extra = {
            "model_ema.decay": torch.ones(()),
            "first_stage_model.loss.logvar": torch.ones(()),
            "alphas_cumprod": torch.ones(3),
        }
        save_file(load_file(own_copy) | extra, own_copy)
        checkpoint = shared_from(own_copy)
        assert not [name for name in checkpoint.vae if name.startswith("loss.")]
        assert "decay" not in checkpoint.unet

    def test_adds_the_prefix_that_text_encoder_names_lack(self, own_copy, checkpoint):
        old, new = "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."
        save_file({name.replace(old, new): tensor for name, tensor in load_file(own_copy).items()}, own_copy)
        assert shared_from(own_copy).text_encoders[0].weights.keys() == checkpoint.text_encoders[0].weights.keys()

    def test_reads_old_ckpt_files(self, own_copy, checkpoint):
        ckpt = own_copy.with_suffix(".ckpt")
        torch.save({"state_dict": load_file(own_copy), "global_step": 5}, ckpt)
        own_copy.unlink()
        unet = shared_from(ckpt).unet
        assert all(torch.equal(tensor, checkpoint.unet[name]) for name, tensor in unet.items())

    def test_has_its_name_and_hashes(self, miniature, checkpoint):
        content = miniature.read_bytes()
        assert checkpoint.name == "miniature"
        assert checkpoint.sha256() == hashlib.sha256(content).hexdigest()
        assert checkpoint.legacy_hash() == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]

    def test_has_the_text_encoders_own_config(self, checkpoint):
        assert checkpoint.text_encoders[0].config["num_attention_heads"] == 2

    def test_copies_nothing_for_the_cpu(self, checkpoint):
        layer = torch.nn.Linear(2, 2)
        pointer = layer.weight.data_ptr()
        with checkpoint.on_device(layer):
            assert layer.weight.data_ptr() == pointer
        assert layer.weight.data_ptr() == pointer


class TestPrediction:
    YAML = "model:\n  params:\n    parameterization: {}\n"

    def test_is_epsilon_by_default(self, checkpoint):
        assert checkpoint.prediction == "epsilon"

    @pytest.mark.parametrize(("word", "prediction"), [("v", "v"), ("eps", "epsilon")])
    def test_is_read_from_the_yaml_beside_the_checkpoint(self, own_copy, word, prediction):
        own_copy.with_suffix(".yaml").write_text(self.YAML.format(word))
        assert shared_from(own_copy).prediction == prediction

    def test_is_read_from_the_checkpoints_own_marker(self, own_copy):
        save_file(load_file(own_copy) | {"v_pred": torch.zeros(0)}, own_copy)
        assert shared_from(own_copy).prediction == "v"

    def test_may_be_set(self, own_copy):
        own_copy.with_suffix(".yaml").write_text(self.YAML.format("v"))
        assert shared_from(own_copy, prediction="epsilon").prediction == "epsilon"

    @pytest.mark.parametrize("text", ["model: [", "model: 5", "", "other: 1", "model:\n  params: 5\n"])
    def test_needs_a_yaml_that_is_a_stable_diffusion_config(self, own_copy, complaint, text):
        own_copy.with_suffix(".yaml").write_text(text)
        assert "miniature.yaml beside the checkpoint" in complaint(shared_from, own_copy)


def test_precision_on_a_cpu_is_full_unless_set():
    assert choose_precision("auto", CPU) == torch.float32
    assert [choose_precision(name, CPU) for name in ("fp32", "fp16", "bf16")] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]


class TestDescription:
    @pytest.fixture
    def host(self, own_copy):
        return StandaloneHost(CheckpointConfig(checkpoint=str(own_copy)), CPU)

    def test_has_the_names_shapes_and_formats_of_the_checkpoint(self, host, checkpoint):
        described = host.describe()
        parts = [(described.unet, checkpoint.unet), (described.vae, checkpoint.vae)]
        parts.append((described.text_encoders[0].weights, checkpoint.text_encoders[0].weights))
        for ours, whole in parts:
            assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in whole.items()}
        assert (described.name, described.family) == (checkpoint.name, checkpoint.family)
        assert described.legacy_hash() == checkpoint.legacy_hash()

    def test_reads_the_file_once(self, host, monkeypatch):
        host.describe()
        monkeypatch.setattr(CheckpointFile, "read", lambda path: pytest.fail("the file was read again"))
        host.describe()

    def test_reads_it_again_when_it_has_changed(self, host, own_copy):
        assert {tensor.dtype for tensor in host.describe().unet.values()} == {torch.float32}
        save_file({name: tensor.half() for name, tensor in load_file(own_copy).items()}, own_copy)
        assert {tensor.dtype for tensor in host.describe().unet.values()} == {torch.float16}

    def test_reads_it_again_when_its_yaml_has_changed(self, host, own_copy):
        assert host.describe().prediction == "epsilon"
        own_copy.with_suffix(".yaml").write_text("model: {params: {parameterization: v}}")
        assert host.describe().prediction == "v"

    def test_follows_settings_that_change(self, host, own_copy):
        host.describe()
        other = StandaloneHost(CheckpointConfig(checkpoint=str(own_copy), prediction="v", precision="bf16"), CPU)
        assert (other.describe().prediction, other.describe().precision) == ("v", torch.bfloat16)
