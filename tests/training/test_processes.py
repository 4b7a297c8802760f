"""Two processes with batches of B train the same adapter as one process with batches of 2 B."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from lib_lora_train.training.session import train
from tests.training.runs import adapter_files, final_weights

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_equal_one_with_the_doubled_batch(tiny, host, tmp_path):
    # Adam divides by the gradient's size, so where a gradient is nearly 0, rounding changes the whole step: a small rate.
    settings = {"epochs": 2, "flip_horizontally": True, "gradient_accumulation": 2, "learning_rate": 1e-4}
    single = tiny(name="single", batch_size=2, **settings)
    train(single, host)
    double = tiny(name="double", batch_size=1, **settings)
    (tmp_path / "double.toml").write_text(double.to_toml())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command += ["-m", "lib_lora_train", "train", "--config", str(tmp_path / "double.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1
    assert [name.replace("double", "single") for name in adapter_files(double)] == list(adapter_files(single))
    mine, others = final_weights(single), load_file(Path(double.run.lora_dir) / "double" / "double.safetensors")
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert torch.allclose(tensor, others[name], atol=1e-6, rtol=0), name
