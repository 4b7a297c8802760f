"""The adapter file, read by hand: what it says is what the adapter did, and the same adapter gives the same bytes."""

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.file import adapter_tensors, load_adapter, read_metadata, save_adapter
from lib_lora_train.adapters.inject import Adapter, inject, selection_of, sized
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view
from lib_lora_train.randomness import Randomness

NUMPY = {"F32": np.float32, "F16": np.float16}
METADATA = {"ss_output_name": "mycat", "ss_epoch": "3", "project": "кошка"}


@pytest.fixture
def adapter(checkpoint) -> Adapter:
    """A LoCon with text encoder whose weights are all non-zero, alpha unlike rank."""
    unet, encoder, config = (
        unet_view(checkpoint),
        text_encoder_view(checkpoint),
        AdapterConfig(rank=4, alpha=1, conv_rank=2, conv_alpha=3),
    )
    made = Adapter(
        inject(sized(unet_targets(unet, selection_of(config)), config), Randomness(0)),
        inject(sized(text_encoder_targets(encoder, "lora_te"), config), Randomness(0)),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in made.layers:
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator))
    return made


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], bytes]:
    """(tensors, metadata, bytes after the header) of a safetensors file, with nothing but the format's description."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        low, high = entry["data_offsets"]
        tensors[name] = np.frombuffer(body[low:high], NUMPY[entry["dtype"]]).reshape(entry["shape"]).astype(np.float64)
    return tensors, metadata, body


def change_by(layer) -> np.ndarray:
    """dW as the adapted layer applies it: its answer to every unit input, less the base layer's."""
    part = layer.layer
    with torch.no_grad():
        if layer.down.ndim == 2:
            unit = torch.eye(layer.down.shape[1])
            return (part(unit) - part.base_layer(unit)).T.double().numpy()
        size = layer.down.shape[-1]
        stride, padding = part.base_layer.stride, part.base_layer.padding
        part.base_layer.stride, part.base_layer.padding = (1, 1), (size - 1, size - 1)
        part.lora_A["lora_train"].stride, part.lora_A["lora_train"].padding = (1, 1), (size - 1, size - 1)
        unit = torch.eye(layer.down.shape[1])[:, :, None, None]
        change = (part(unit) - part.base_layer(unit)).flip(-1, -2).transpose(0, 1)
        part.base_layer.stride, part.base_layer.padding = stride, padding
        return change.double().numpy()


class TestWhatIsWritten:
    @pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
    def test_is_the_change_that_the_adapter_makes(self, adapter, tmp_path, precision, tolerance):
        save_adapter(tmp_path / "a.safetensors", adapter_tensors(adapter, precision), {})
        tensors, _, _ = read(tmp_path / "a.safetensors")
        assert len(tensors) == 3 * len(adapter.layers)
        for layer in adapter.layers:
            down, up = tensors[f"{layer.name}.lora_down.weight"], tensors[f"{layer.name}.lora_up.weight"]
            scale = tensors[f"{layer.name}.alpha"] / down.shape[0]
            expected = scale * np.tensordot(up.reshape(up.shape[:2]), down, axes=1)
            np.testing.assert_allclose(change_by(layer), expected, atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_has_the_asked_precision_throughout(self, adapter, precision):
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        assert {tensor.dtype for tensor in adapter_tensors(adapter, precision).values()} == {dtype}

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_is_never_nan(self, adapter, complaint, number):
        with torch.no_grad():
            adapter.layers[3].up[0, 0] = number
        assert "NaN or infinite numbers" in complaint(adapter_tensors, adapter, "fp32")

    def test_is_never_beyond_what_fp16_can_hold(self, adapter, complaint):
        with torch.no_grad():
            adapter.layers[3].up[0, 0] = 1e5
        assert "in fp16" in complaint(adapter_tensors, adapter, "fp16")
        adapter_tensors(adapter, "fp32")

    def test_comes_back_when_loaded(self, adapter, tmp_path):
        save_adapter(tmp_path / "a.safetensors", adapter_tensors(adapter, "fp32"), METADATA)
        loaded = load_adapter(tmp_path / "a.safetensors")
        assert METADATA.items() <= loaded.metadata.items()
        assert loaded.layers.keys() == {layer.name for layer in adapter.layers}
        for layer in adapter.layers:
            weights = loaded.layers[layer.name]
            assert torch.equal(weights.down, layer.down)
            assert torch.equal(weights.up, layer.up)
            assert (weights.rank, weights.alpha) == (layer.rank, layer.alpha)
            np.testing.assert_allclose(
                weights.delta().numpy(), change_by(layer).reshape(weights.delta().shape), atol=1e-5, rtol=1e-4
            )


class TestBytes:
    def test_are_the_same_twice_and_whatever_the_order(self, adapter, tmp_path):
        tensors = adapter_tensors(adapter, "fp16")
        save_adapter(tmp_path / "a", tensors, METADATA)
        save_adapter(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(METADATA.items())))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_are_the_same_from_another_process(self, tmp_path):
        code = (
            "import sys, torch; from pathlib import Path; from lib_lora_train.adapters.file import save_adapter\n"
            "tensors = {f'layer{i}.lora_{p}.weight': torch.full((2, 2), i / 3) for i in range(9) for p in ('up', 'down')}\n"
            "save_adapter(Path(sys.argv[1]), tensors, {f'ss_{i}': 'x' for i in range(20)})\n"
        )
        environment, root = {**os.environ, "PYTHONHASHSEED": "1"}, Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "theirs")], check=True, env=environment, cwd=root)
        tensors = {
            f"layer{i}.lora_{part}.weight": torch.full((2, 2), i / 3) for i in range(9) for part in ("up", "down")
        }
        save_adapter(tmp_path / "ours", tensors, {f"ss_{i}": "x" for i in range(20)})
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    def test_are_read_by_safetensors_itself(self, adapter, tmp_path):
        tensors = adapter_tensors(adapter, "fp16")
        save_adapter(tmp_path / "a.safetensors", tensors, METADATA)
        theirs = safetensors.torch.load_file(tmp_path / "a.safetensors")
        assert theirs.keys() == tensors.keys()
        assert all(torch.equal(theirs[name], tensors[name]) for name in tensors)
        with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
            assert METADATA.items() <= file.metadata().items()

    def test_begin_their_numbers_at_a_multiple_of_eight(self, adapter, tmp_path):
        save_adapter(tmp_path / "a", adapter_tensors(adapter, "fp16"), METADATA)
        assert struct.unpack("<Q", (tmp_path / "a").read_bytes()[:8])[0] % 8 == 0


TWO_MEGABYTES = {
    f"layer{i}.lora_{part}.weight": torch.full((64, 4096), i + 0.5) for i in range(2) for part in ("down", "up")
}


class TestHashes:
    def test_the_models_is_of_everything_after_the_header(self, tmp_path):
        save_adapter(tmp_path / "a", TWO_MEGABYTES, METADATA)
        _, metadata, body = read(tmp_path / "a")
        assert metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()

    def test_the_legacy_one_is_of_a_file_that_carries_only_ss_metadata(self, tmp_path):
        save_adapter(tmp_path / "a", TWO_MEGABYTES, METADATA)
        plain = safetensors.torch.save(
            TWO_MEGABYTES, {key: value for key, value in METADATA.items() if key.startswith("ss_")}
        )
        assert read(tmp_path / "a")[1]["sshs_legacy_hash"] == hashlib.sha256(plain[0x100000:0x110000]).hexdigest()[:8]

    def test_do_not_depend_on_other_metadata(self, tmp_path):
        save_adapter(tmp_path / "a", TWO_MEGABYTES, METADATA)
        save_adapter(tmp_path / "b", TWO_MEGABYTES, {**METADATA, "project": "another, much longer text" * 10})
        hashes = [{k: v for k, v in read(tmp_path / name)[1].items() if k.startswith("sshs_")} for name in "ab"]
        assert hashes[0] == hashes[1]


class TestLoading:
    def test_takes_alpha_0_or_none_as_the_rank(self, tmp_path):
        pair = {"lora_down.weight": torch.ones(4, 8), "lora_up.weight": torch.ones(8, 4)}
        tensors = {f"{name}.{part}": tensor.clone() for name in ("none", "zero") for part, tensor in pair.items()}
        safetensors.torch.save_file({**tensors, "zero.alpha": torch.tensor(0.0)}, tmp_path / "a.safetensors")
        layers = load_adapter(tmp_path / "a.safetensors").layers
        assert {name: layer.alpha for name, layer in layers.items()} == {"none": 4.0, "zero": 4.0}
        assert torch.equal(layers["none"].delta(), torch.full((8, 8), 4.0))

    @pytest.mark.parametrize(
        "names",
        [["fc.weight"], ["a.lora_down.weight"], ["a.lora_A.weight", "a.lora_B.weight"], ["a.hada_w1_a", "a.hada_w1_b"]],
    )
    def test_refuses_another_kind_of_file(self, tmp_path, complaint, names):
        safetensors.torch.save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "a.safetensors")
        assert "no LoRA in kohya's format" in complaint(load_adapter, tmp_path / "a.safetensors")

    @pytest.mark.parametrize(("extra", "words"), [("a.dora_scale", "a DoRA"), ("a.lora_mid.weight", "Tucker")])
    def test_refuses_what_is_more_than_a_lora(self, tmp_path, complaint, extra, words):
        tensors = {
            "a.lora_down.weight": torch.ones(4, 8),
            "a.lora_up.weight": torch.ones(8, 4),
            extra: torch.ones(4, 4),
        }
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
        assert words in complaint(load_adapter, tmp_path / "a.safetensors")

    @pytest.mark.parametrize(("down", "up"), [((4, 8), (8, 3)), ((4,), (8, 4)), ((0, 8), (8, 0)), ((4, 8), (8,))])
    def test_refuses_matrices_that_do_not_fit_together(self, tmp_path, complaint, down, up):
        safetensors.torch.save_file(
            {"a.lora_down.weight": torch.ones(down), "a.lora_up.weight": torch.ones(up)}, tmp_path / "a"
        )
        assert "do not fit together" in complaint(load_adapter, tmp_path / "a")

    @pytest.mark.parametrize("content", [b"", b"abc", b"<html>" * 20, struct.pack("<Q", 10) + b"[1, 2]    "])
    def test_refuses_what_is_no_safetensors_file(self, tmp_path, complaint, content):
        (tmp_path / "a.safetensors").write_bytes(content)
        assert "damaged or no safetensors file" in complaint(load_adapter, tmp_path / "a.safetensors")

    def test_refuses_a_file_that_was_cut_off(self, adapter, tmp_path, complaint):
        save_adapter(tmp_path / "a", adapter_tensors(adapter, "fp16"), {})
        (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-2])
        assert "damaged" in complaint(load_adapter, tmp_path / "a")

    def test_refuses_a_missing_file_and_a_folder(self, tmp_path, complaint):
        assert "cannot be read" in complaint(load_adapter, tmp_path / "none.safetensors")
        assert "cannot be read" in complaint(load_adapter, tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_adapter(adapter, tmp_path, monkeypatch, complaint, call):
    path, tensors = tmp_path / "a.safetensors", adapter_tensors(adapter, "fp16")
    save_adapter(path, tensors, {"ss_epoch": "1"})
    before = path.read_bytes()

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    assert "the disk is full" in complaint(save_adapter, path, tensors, {"ss_epoch": "2"})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_metadata_is_read_without_the_weights(adapter, tmp_path, complaint):
    path = tmp_path / "mycat.safetensors"
    save_adapter(path, adapter_tensors(adapter, "fp16"), METADATA)
    _, metadata, body = read(path)
    os.truncate(path, path.stat().st_size - len(body))
    assert read_metadata(path) == metadata
    for content in (b"", b"12345678", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2**63) + b"{}garbage"):
        path.write_bytes(content)
        assert "is damaged" in complaint(read_metadata, path)
    path.unlink()
    assert "cannot be read" in complaint(read_metadata, path)
