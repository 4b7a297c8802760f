"""Ctrl-C and SIGKILL, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.runs import adapter_files, tiny_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def running(tmp_path, miniature):
    """(config, process) of a run that has saved its first state and would train for 100,000 epochs."""
    config = tiny_config(tmp_path, miniature, epochs=100_000, save_state_every_n_minutes=0.0)
    (tmp_path / "my.toml").write_text(config.to_toml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lib_lora_train", "train", "--config", str(tmp_path / "my.toml")]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "runs" / "tiny" / "state.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield config, process
    process.kill()
    process.wait()


def limit_steps(config, steps: int) -> None:
    """Makes the run end after `steps` steps."""
    path = Path(config.run.runs_dir) / "tiny" / "config.toml"
    path.write_text(path.read_text().replace("max_steps = 0", f"max_steps = {steps}"))


def steps_done(config) -> int:
    import torch

    return torch.load(Path(config.run.runs_dir) / "tiny" / "state.pt", weights_only=True)["step"]


def test_ctrl_c_saves_the_state_and_prints_how_to_resume(running, call):
    config, process = running
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopping and saving." in err
    assert f"resume tiny --runs-dir {config.run.runs_dir}" in out
    step = steps_done(config)
    before = adapter_files(config)
    assert f"tiny-step{step:08d}.safetensors" in before
    limit_steps(config, step + 1)
    assert call("resume", "tiny", "--runs-dir", config.run.runs_dir).code == 0
    after = adapter_files(config)
    assert "tiny.safetensors" in after
    assert before.items() <= after.items()


def test_a_killed_run_resumes_from_its_last_saved_state(running, call):
    config, process = running
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    step = steps_done(config)
    before = {name: content for name, content in adapter_files(config).items() if name.endswith(".safetensors")}
    limit_steps(config, step + 1)
    result = call("resume", "tiny", "--runs-dir", config.run.runs_dir)
    assert result.code == 0
    assert f"resumed at step {step}" in result.out
    assert before.items() <= adapter_files(config).items()
