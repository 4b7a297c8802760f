"""The adapter file, read by hand: it holds the change that the adapter makes."""

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.formats.kohya import (
    adapter_tensors,
    load_adapter,
    load_weights,
    read_metadata,
    save_adapter,
)
from lib_lora_train.model.denoiser import LayerSelection
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view
from tests.adapters.adapting import adapted, randomize

NUMPY = {"F32": np.float32, "F16": np.float16}
METADATA = {"ss_output_name": "mycat", "ss_epoch": "3", "project": "кошка"}


@pytest.fixture
def adapter(checkpoint) -> Adapter:
    """A LoCon with text encoder whose weights are all non-zero, alpha unlike rank."""
    layers = unet_targets(unet_view(checkpoint), LayerSelection(convolutions=True))
    layers += text_encoder_targets(text_encoder_view(checkpoint), "lora_te")
    made = adapted(layers, rank=4, alpha=1, conv_rank=2, conv_alpha=3)
    randomize(made, std=1.0)
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
    """dW as the attached layer applies it: its output for every unit input, less the base layer's."""
    base = layer.base
    layer_output = lambda x: (base(x) - type(base).forward(base, x)).double().numpy()  # noqa: E731
    with torch.no_grad():
        if isinstance(base, torch.nn.Linear):
            return layer_output(torch.eye(base.in_features)).T
        size = base.kernel_size[0]
        stride, padding = base.stride, base.padding
        base.stride, base.padding = (1, 1), (size - 1, size - 1)
        change = layer_output(torch.eye(base.in_channels)[:, :, None, None])
        base.stride, base.padding = stride, padding
        return change[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


class TestSaved:
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
            adapter.layers[3].adapter.up[0, 0] = number
        assert "NaN or infinite numbers" in complaint(adapter_tensors, adapter, "fp32")

    def test_is_never_beyond_what_fp16_can_hold(self, adapter, complaint):
        with torch.no_grad():
            adapter.layers[3].adapter.up[0, 0] = 1e5
        assert "in fp16" in complaint(adapter_tensors, adapter, "fp16")
        adapter_tensors(adapter, "fp32")

    def test_comes_back_when_loaded(self, adapter, tmp_path):
        save_adapter(tmp_path / "a.safetensors", adapter_tensors(adapter, "fp32"), METADATA)
        loaded = load_adapter(tmp_path / "a.safetensors")
        assert METADATA.items() <= loaded.metadata.items()
        assert loaded.layers.keys() == {layer.name for layer in adapter.layers}
        for layer in adapter.layers:
            same = loaded.layers[layer.name]
            assert torch.equal(same.down, layer.adapter.down)
            assert torch.equal(same.up, layer.adapter.up)
            assert (same.rank, same.scale) == (layer.adapter.rank, layer.adapter.scale)
            np.testing.assert_allclose(same.delta_weight().numpy(), change_by(layer), atol=1e-5, rtol=1e-4)

    def test_is_copied_to_the_layers_that_have_its_names(self, adapter, tmp_path, checkpoint):
        tensors = adapter_tensors(adapter, "fp16")
        first = adapter.layers[0].name
        some = {key: tensor for key, tensor in tensors.items() if not key.startswith(first)}
        save_adapter(tmp_path / "a.safetensors", some, {})
        layers = unet_targets(unet_view(checkpoint), LayerSelection(convolutions=True))
        other = adapted(layers, seed=3, rank=4, alpha=2, conv_rank=2)
        before = other.layers[0].adapter.down.detach().clone()
        load_weights(other, load_adapter(tmp_path / "a.safetensors"))
        assert torch.equal(other.layers[0].adapter.down, before)
        for layer in other.layers[1:]:
            assert torch.equal(layer.adapter.up, tensors[f"{layer.name}.lora_up.weight"].float())
            assert layer.adapter.alpha == tensors[f"{layer.name}.alpha"]


class TestLoading:
    @pytest.mark.parametrize("names", [["fc.weight"], ["a.lora_down.weight"], ["step"]])
    def test_refuses_what_is_not_an_adapter(self, tmp_path, complaint, names):
        safetensors.torch.save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "a.safetensors")
        assert "is not an adapter in kohya's format" in complaint(load_adapter, tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("names", "algorithm"),
        [
            (["lora_down.weight", "lora_up.weight", "dora_scale"], "a DoRA"),
            (["lora_down.weight", "lora_up.weight", "lora_mid.weight"], "a LoRA with Tucker decomposition"),
            (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"], "a LoHa"),
            (["lokr_w1", "lokr_w2"], "a LoKr"),
            (["oft_blocks"], "an OFT"),
            (["lora_A.weight", "lora_B.weight"], "a LoRA in the format of peft"),
        ],
    )
    def test_names_the_algorithm_that_it_does_not_support(self, tmp_path, complaint, names, algorithm):
        safetensors.torch.save_file({f"lora_unet_x.{name}": torch.ones(2, 2) for name in names}, tmp_path / "a")
        message = complaint(load_adapter, tmp_path / "a")
        assert (
            message
            == f"{tmp_path / 'a'} is {algorithm}, which is not supported. Choose a LoRA or LoCon in kohya's format."
        )

    def test_refuses_a_file_of_which_one_layer_is_of_another_algorithm(self, tmp_path, complaint):
        lora = {"a.lora_down.weight": torch.ones(4, 8), "a.lora_up.weight": torch.ones(8, 4)}
        safetensors.torch.save_file({**lora, "b.hada_w1_a": torch.ones(2, 2)}, tmp_path / "a")
        assert "LoHa" in complaint(load_adapter, tmp_path / "a")

    def test_refuses_matrices_that_do_not_fit_together(self, tmp_path, complaint):
        safetensors.torch.save_file(
            {"a.lora_down.weight": torch.ones(4, 8), "a.lora_up.weight": torch.ones(8, 3)}, tmp_path / "a"
        )
        assert "do not fit together" in complaint(load_adapter, tmp_path / "a")

    def test_refuses_an_alpha_that_is_not_one_number(self, tmp_path, complaint):
        lora = {"a.lora_down.weight": torch.ones(4, 8), "a.lora_up.weight": torch.ones(8, 4)}
        safetensors.torch.save_file({**lora, "a.alpha": torch.ones(2)}, tmp_path / "a")
        assert "do not fit together" in complaint(load_adapter, tmp_path / "a")

    def test_refuses_an_empty_file(self, tmp_path, complaint):
        safetensors.torch.save_file({}, tmp_path / "a")
        assert "contains no adapter layers" in complaint(load_adapter, tmp_path / "a")

    @pytest.mark.parametrize("content", [b"", b"abc", b"<html>" * 20, struct.pack("<Q", 10) + b"[1, 2]    "])
    def test_refuses_what_is_not_a_safetensors_file(self, tmp_path, complaint, content):
        (tmp_path / "a.safetensors").write_bytes(content)
        assert "damaged or not a safetensors file" in complaint(load_adapter, tmp_path / "a.safetensors")

    def test_refuses_a_truncated_file(self, adapter, tmp_path, complaint):
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


def test_metadata_is_read_alone(adapter, tmp_path, complaint):
    path = tmp_path / "mycat.safetensors"
    save_adapter(path, adapter_tensors(adapter, "fp16"), METADATA)
    assert read_metadata(path) == read(path)[1]
    path.write_bytes(b"12345678")
    assert "not a safetensors file" in complaint(read_metadata, path)
    path.unlink()
    assert "cannot be read" in complaint(read_metadata, path)
