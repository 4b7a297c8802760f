"""Checkpoint files are read whole and without running code; other files are refused by what they look like."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora_train.checkpoints.reading import CheckpointFile, read_weights
from lib_lora_train.errors import UserError
from tests.families import write_family


class Bomb:
    """Unpickling it runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        ("sd2", ["cond_stage_model.model."]),
        ("sdxl", ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."]),
    ],
)
def test_every_text_encoder_of_a_family_is_found(tmp_path, family, prefixes):
    path = write_family(tmp_path, family)
    tensors = load_file(path)
    encoders = CheckpointFile.read(path).text_encoders()
    assert len(encoders) == len(prefixes)
    for prefix, weights in zip(prefixes, encoders, strict=True):
        expected = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
        assert {name for name in expected if not name.endswith("position_ids")} == set(weights)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_ckpt_of_every_torch_holds_the_same_as_a_safetensors_file(own_copy, zipped, wrapped):
    weights, family = read_weights(own_copy)
    ckpt = own_copy.with_suffix(".ckpt")
    content = {"state_dict": weights, "global_step": 7} if wrapped else weights
    torch.save(content, ckpt, _use_new_zipfile_serialization=zipped)  # torch before 1.6 wrote the other layout
    found, found_family = read_weights(ckpt)
    assert found_family is family
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


class TestWrongFiles:
    def test_a_missing_file(self, tmp_path, complaint):
        assert "does not exist" in complaint(read_weights, tmp_path / "none.safetensors")

    def test_a_folder(self, tmp_path, complaint):
        assert "is a folder (diffusers layout?)" in complaint(read_weights, tmp_path)

    def test_a_lora(self, tmp_path, complaint):
        save_file(
            {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors"
        )
        assert "looks like a LoRA" in complaint(read_weights, tmp_path / "a.safetensors")

    def test_a_lora_as_ckpt(self, tmp_path, complaint):
        torch.save({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, tmp_path / "a.ckpt")
        assert "looks like a LoRA" in complaint(read_weights, tmp_path / "a.ckpt")

    def test_a_download_that_was_cut_off(self, own_copy, complaint):
        own_copy.write_bytes(own_copy.read_bytes()[:-1])
        assert "cut off" in complaint(read_weights, own_copy)

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_a_ckpt_that_would_run_code_does_not(self, tmp_path, complaint, wrapped):
        bomb = Bomb(tmp_path / "it ran")
        torch.save({"state_dict": {"w": torch.ones(1)}, "bomb": bomb} if wrapped else bomb, tmp_path / "a.ckpt")
        assert "can run code. Convert it to .safetensors" in complaint(read_weights, tmp_path / "a.ckpt")
        assert not bomb.target.exists()

    @pytest.mark.parametrize(
        "content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", bytes(100), b"GGUF" + bytes(60)]
    )
    def test_a_ckpt_that_is_none(self, tmp_path, content):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"^a\.ckpt "):
            read_weights(tmp_path / "a.ckpt")

    def test_a_ckpt_cut_off(self, own_copy):
        ckpt = own_copy.with_suffix(".ckpt")
        torch.save(load_file(own_copy), ckpt)
        ckpt.write_bytes(ckpt.read_bytes()[:100_000])
        with pytest.raises(UserError, match=r"^miniature\.ckpt "):
            read_weights(ckpt)
