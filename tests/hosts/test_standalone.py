"""A checkpoint from a file: mapped where it can be, converted where it must, refused in words where it is something else."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.standalone import StandaloneHost, choose_precision, file_sha256, legacy_hash, read_checkpoint
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


@pytest.fixture
def own_copy(miniature, tmp_path) -> Path:
    """The miniature and its tokenizer in a folder of the test's own."""
    shutil.copytree(miniature.with_suffix(""), tmp_path / "miniature")
    return Path(shutil.copy(miniature, tmp_path))


class Bomb:
    """Unpickling it runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


class TestWhatIsLent:
    def test_is_everything_in_the_file_under_the_parts_own_names(self, miniature, checkpoint):
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
    def test_stays_on_the_disk_where_the_precision_fits(self, miniature, checkpoint):
        ranges = mapped_ranges(miniature)
        tensors = [*checkpoint.unet.values(), *checkpoint.vae.values(), *checkpoint.text_encoders[0].weights.values()]
        assert all(any(low <= tensor.data_ptr() < high for low, high in ranges) for tensor in tensors)

    def test_is_converted_from_fp16(self, own_copy):
        half = {name: tensor.half() for name, tensor in load_file(own_copy).items()}
        save_file(half, own_copy)
        unet = shared_from(own_copy).unet
        assert {tensor.dtype for tensor in unet.values()} == {torch.float32}
        assert all(torch.equal(tensor, half[f"model.diffusion_model.{name}"].float()) for name, tensor in unet.items())

    def test_has_the_unet_in_the_asked_precision_and_the_rest_as_it_is_in_the_file(self, own_copy):
        save_file({name: tensor.half() for name, tensor in load_file(own_copy).items()}, own_copy)
        checkpoint = shared_from(own_copy, precision="bf16")
        assert {tensor.dtype for tensor in checkpoint.unet.values()} == {torch.bfloat16}
        assert {t.dtype for part in (checkpoint.vae, checkpoint.text_encoders[0].weights) for t in part.values()} == {
            torch.float16
        }

    def test_brings_the_vae_in_full_precision_and_puts_the_lent_tensors_back(self, own_copy):
        save_file({name: tensor.half() for name, tensor in load_file(own_copy).items()}, own_copy)
        checkpoint = shared_from(own_copy)
        vae = vae_view(checkpoint)
        before = {name: p.data_ptr() for name, p in vae.named_parameters()}
        with checkpoint.on_device(vae):
            assert {p.dtype for p in vae.parameters()} == {torch.float32}
        assert {name: p.data_ptr() for name, p in vae.named_parameters()} == before

    def test_leaves_out_copies_for_averaging_and_the_vaes_loss(self, own_copy):
        extra = {
            "model_ema.decay": torch.ones(()),
            "first_stage_model.loss.logvar": torch.ones(()),
            "alphas_cumprod": torch.ones(3),
        }
        save_file(load_file(own_copy) | extra, own_copy)
        checkpoint = shared_from(own_copy)
        assert not [name for name in checkpoint.vae if name.startswith("loss.")]
        assert "decay" not in checkpoint.unet

    def test_mends_text_encoder_names_without_their_prefix(self, own_copy, checkpoint):
        old, new = "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."
        save_file({name.replace(old, new): tensor for name, tensor in load_file(own_copy).items()}, own_copy)
        assert shared_from(own_copy).text_encoders[0].weights.keys() == checkpoint.text_encoders[0].weights.keys()

    def test_reads_old_ckpt_files(self, own_copy, checkpoint):
        ckpt = own_copy.with_suffix(".ckpt")
        torch.save({"state_dict": load_file(own_copy), "global_step": 5}, ckpt)
        own_copy.unlink()
        unet = shared_from(ckpt).unet
        assert all(torch.equal(tensor, checkpoint.unet[name]) for name, tensor in unet.items())

    def test_carries_its_name_and_hashes(self, miniature, checkpoint):
        content = miniature.read_bytes()
        assert checkpoint.name == "miniature"
        assert checkpoint.sha256() == file_sha256(miniature) == hashlib.sha256(content).hexdigest()
        assert (
            checkpoint.legacy_hash()
            == legacy_hash(miniature)
            == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
        )

    def test_carries_the_text_encoders_own_config(self, checkpoint):
        assert checkpoint.text_encoders[0].config["num_attention_heads"] == 2

    def test_stays_where_it_is_on_the_cpu(self, checkpoint):
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

    def test_is_read_from_the_checkpoints_own_mark(self, own_copy):
        save_file(load_file(own_copy) | {"v_pred": torch.zeros(0)}, own_copy)
        assert shared_from(own_copy).prediction == "v"

    def test_may_be_set_by_hand(self, own_copy):
        own_copy.with_suffix(".yaml").write_text(self.YAML.format("v"))
        assert shared_from(own_copy, prediction="epsilon").prediction == "epsilon"

    @pytest.mark.parametrize("text", ["model: [", "model: 5", "", "other: 1", "model:\n  params: 5\n"])
    def test_refuses_a_yaml_that_is_something_else(self, own_copy, complaint, text):
        own_copy.with_suffix(".yaml").write_text(text)
        assert "miniature.yaml beside the checkpoint" in complaint(shared_from, own_copy)


class TestTokenizer:
    def test_lies_beside_the_checkpoint(self, checkpoint):
        assert (
            checkpoint.text_encoders[0]
            .tokenizer.decode(checkpoint.text_encoders[0].tokenizer("a red star").input_ids, skip_special_tokens=True)
            .strip()
            == "a red star"
        )

    def test_may_be_another_folder(self, own_copy):
        own_copy.with_suffix("").rename(own_copy.parent / "other")
        assert shared_from(own_copy, tokenizer=str(own_copy.parent / "other")).text_encoders[0].tokenizer.eos_token_id

    def test_is_refused_where_the_folder_holds_none(self, miniature, tmp_path, complaint):
        text = complaint(shared_from, miniature, tokenizer=str(tmp_path))
        assert text == f"tokenizer: {tmp_path} has no vocab.json and merges.txt. Choose the folder that contains them."

    def test_that_is_damaged_is_refused(self, own_copy, complaint):
        (own_copy.with_suffix("") / "vocab.json").write_text("{")
        assert complaint(shared_from, own_copy).startswith("tokenizer: ")

    def test_that_is_nowhere_is_asked_for(self, own_copy, complaint, monkeypatch, tmp_path):
        shutil.rmtree(own_copy.with_suffix(""))
        monkeypatch.setattr("lib_lora_train.hosts.standalone.CLIP_TOKENIZER", "nobody/has-this")
        assert "Connect once, or give a folder" in complaint(shared_from, own_copy)


class TestWrongFiles:
    def test_a_missing_file(self, tmp_path, complaint):
        assert "does not exist" in complaint(read_checkpoint, tmp_path / "none.safetensors")

    def test_a_folder(self, tmp_path, complaint):
        assert "is a folder (diffusers layout?)" in complaint(read_checkpoint, tmp_path)

    def test_a_lora(self, tmp_path, complaint):
        save_file(
            {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors"
        )
        assert "looks like a LoRA" in complaint(read_checkpoint, tmp_path / "a.safetensors")

    def test_a_lora_as_ckpt(self, tmp_path, complaint):
        torch.save({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, tmp_path / "a.ckpt")
        assert "looks like a LoRA" in complaint(read_checkpoint, tmp_path / "a.ckpt")

    def test_a_download_that_was_cut_off(self, own_copy, complaint):
        own_copy.write_bytes(own_copy.read_bytes()[:-1])
        assert "cut off" in complaint(read_checkpoint, own_copy)

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_a_ckpt_that_would_run_code_does_not(self, tmp_path, complaint, wrapped):
        bomb = Bomb(tmp_path / "it ran")
        torch.save({"state_dict": {"w": torch.ones(1)}, "bomb": bomb} if wrapped else bomb, tmp_path / "a.ckpt")
        assert "can run code. Convert it to .safetensors" in complaint(read_checkpoint, tmp_path / "a.ckpt")
        assert not bomb.target.exists()

    @pytest.mark.parametrize(
        "content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", bytes(100), b"GGUF" + bytes(60)]
    )
    def test_a_ckpt_that_is_none(self, tmp_path, content):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"^a\.ckpt "):
            read_checkpoint(tmp_path / "a.ckpt")

    def test_a_ckpt_cut_off(self, own_copy):
        ckpt = own_copy.with_suffix(".ckpt")
        torch.save(load_file(own_copy), ckpt)
        ckpt.write_bytes(ckpt.read_bytes()[:100_000])
        with pytest.raises(UserError, match=r"^miniature\.ckpt "):
            read_checkpoint(ckpt)


def test_precision_on_a_cpu_is_full_unless_asked():
    assert choose_precision("auto", CPU) == torch.float32
    assert [choose_precision(name, CPU) for name in ("fp32", "fp16", "bf16")] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
