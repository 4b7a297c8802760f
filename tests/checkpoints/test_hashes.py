"""The hashes of a checkpoint file."""

import hashlib

from lib_lora_train.checkpoints.hashes import file_sha256, legacy_hash


def test_sha256_is_of_the_whole_file(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(bytes(range(256)) * 20_000)  # longer than a block
    assert file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_legacy_hash_is_of_64_kib_at_1_mib(tmp_path):
    middle = bytes(range(256)) * 256
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"a" * 2**20 + middle + b"b" * 99)
    assert legacy_hash(file) == hashlib.sha256(middle).hexdigest()[:8]
