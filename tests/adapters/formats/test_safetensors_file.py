"""Safetensors files, whose bytes depend on their content alone, and their hashes."""

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lib_lora_train.adapters.formats.safetensors_file import serialize, with_hashes

METADATA = {"ss_output_name": "mycat", "ss_epoch": "3", "project": "кошка"}
TENSORS = {f"layer{i}.lora_{part}.weight": torch.full((2, 2), i / 3) for i in range(9) for part in ("up", "down")}


class TestBytes:
    def test_are_the_same_twice_and_in_any_order(self):
        reversed_order = serialize(dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
        assert serialize(TENSORS, METADATA) == reversed_order

    def test_are_the_same_from_another_process(self):
        code = (
            "import sys, torch; from lib_lora_train.adapters.formats.safetensors_file import serialize\n"
            "tensors = {f'layer{i}.lora_{p}.weight': torch.full((2, 2), i / 3) for i in range(9) for p in ('up', 'down')}\n"
            "sys.stdout.buffer.write(serialize(tensors, {f'ss_{i}': 'x' for i in range(20)}))\n"
        )
        environment, root = {**os.environ, "PYTHONHASHSEED": "1"}, Path(__file__).parents[3]
        ran = subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root, capture_output=True)
        assert serialize(TENSORS, {f"ss_{i}": "x" for i in range(20)}) == ran.stdout

    def test_are_read_by_safetensors_itself(self, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(serialize(TENSORS, METADATA))
        theirs = safetensors.torch.load_file(tmp_path / "a.safetensors")
        assert theirs.keys() == TENSORS.keys()
        assert all(torch.equal(theirs[name], TENSORS[name]) for name in TENSORS)
        with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
            assert file.metadata() == METADATA

    @pytest.mark.parametrize("metadata", [{}, METADATA, {"a": "1"}, {"a": "12"}])
    def test_start_their_data_at_a_multiple_of_eight(self, metadata):
        assert struct.unpack("<Q", serialize(TENSORS, metadata)[:8])[0] % 8 == 0


TWO_MEGABYTES = {
    f"layer{i}.lora_{part}.weight": torch.full((64, 4096), i + 0.5) for i in range(2) for part in ("down", "up")
}


class TestHashes:
    def test_the_models_is_of_everything_after_the_header(self):
        hashes = with_hashes(TWO_MEGABYTES, METADATA)
        content = serialize(TWO_MEGABYTES, hashes)
        body = content[8 + struct.unpack("<Q", content[:8])[0] :]
        assert hashes["sshs_model_hash"] == hashlib.sha256(body).hexdigest()

    def test_the_legacy_one_is_of_a_file_with_ss_metadata_only(self):
        only_ss = {key: value for key, value in METADATA.items() if key.startswith("ss_")}
        content = safetensors.torch.save(TWO_MEGABYTES, only_ss)
        expected = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
        assert with_hashes(TWO_MEGABYTES, METADATA)["sshs_legacy_hash"] == expected

    def test_do_not_depend_on_other_metadata(self):
        other = {**METADATA, "project": "another, much longer text" * 10}
        both = [with_hashes(TWO_MEGABYTES, metadata) for metadata in (METADATA, other)]
        hashes = [{key: value for key, value in each.items() if key.startswith("sshs_")} for each in both]
        assert hashes[0] == hashes[1]
