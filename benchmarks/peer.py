"""Our command line against diffusers' script: each in its own process, started as its users start it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from benchmarks.workload import Workload
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = Path(__file__).resolve().parent / "stand_in"
MIXED = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
SAMPLE_SECONDS = 0.02


@dataclass
class Measured:
    """One run of a program."""

    seconds: list[float] = field(default_factory=list)
    """Since the start of the process, each time the progress bar shows a new step."""
    steps: list[int] = field(default_factory=list)
    """The steps done at these times."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all threads up to these times."""
    peak_resident: int = 0
    """Largest resident memory in bytes; pages of a mapped file count while they are in memory."""
    peak_anonymous: int = 0
    """The same without pages of files, sampled."""

    def record(self, step: int, seconds: float, pid: int) -> None:
        """Records what the progress bar shows if it shows a new step."""
        if step > (self.steps[-1] if self.steps else 0):
            self.steps.append(step)
            self.seconds.append(seconds)
            self.cpu.append(cpu_seconds(pid))

    @property
    def first_step(self) -> float:
        """Seconds from the start of the process to the end of the first optimizer step."""
        return self.seconds[0]

    @property
    def rate(self) -> float:
        """Steps per second over the last three quarters of the run."""
        return 1 / self._per_step(self.seconds)

    @property
    def cpu_per_step(self) -> float:
        """CPU seconds per step, over the same steps."""
        return self._per_step(self.cpu)

    def _per_step(self, clock: list[float]) -> float:
        begin = next(i for i, step in enumerate(self.steps) if step >= self.steps[-1] / 4)
        return (clock[-1] - clock[begin]) / (self.steps[-1] - self.steps[begin])


def require_file(path: Path, advice: str) -> None:
    """Ends the program with one sentence and `advice` when a peer's file does not exist."""
    if not path.is_file():
        sys.exit(f"{path} does not exist. {advice}")


def compare_programs(workload: Workload, script: Path, folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Runs both alternately; the medians of each figure."""
    model = write_diffusers_layout(workload, folder / "diffusers")
    ours, theirs = [], []
    for number in range(repeats):
        output = folder / f"round-{number}"
        output.mkdir()
        ours.append(measure(our_command(workload, output, steps), steps))
        theirs.append(measure(peer_command(workload, model, script, output, steps), steps))
    return {"ours": medians(ours), "peer": medians(theirs), "stand_in_torchvision": not has_torchvision()}


def medians(runs: list[Measured]) -> dict[str, float]:
    """The figures of several runs of one program."""
    return {
        "steps_per_second": statistics.median(run.rate for run in runs),
        "cpu_seconds_per_step": statistics.median(run.cpu_per_step for run in runs),
        "seconds_to_first_step": statistics.median(run.first_step for run in runs),
        "peak_resident_mb": statistics.median(run.peak_resident for run in runs) / 1e6,
        "peak_anonymous_mb": statistics.median(run.peak_anonymous for run in runs) / 1e6,
    }


def our_command(workload: Workload, folder: Path, steps: int) -> list[str]:
    """`python -m lib_lora_train train ...`"""
    flags = []
    for name, value in workload.flags(folder, steps).items():
        flag = name.replace("_", "-")
        flags += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return [sys.executable, "-m", "lib_lora_train", "train", *flags]


def peer_command(workload: Workload, model: Path, script: Path, folder: Path, steps: int) -> list[str]:
    """`python train_text_to_image_lora.py ...`, without `accelerate launch`, which takes longer to start."""
    flags = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": workload.images,
        "output_dir": folder / "peer",
        "cache_dir": folder / "cache",
        "caption_column": "text",
        "resolution": workload.resolution,
        "train_batch_size": workload.batch_size,
        "rank": workload.rank,
        "mixed_precision": MIXED[workload.precision],
        "max_train_steps": steps,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "checkpointing_steps": 10 * steps,
        "seed": 0,
    }
    return [sys.executable, str(script), "--center_crop", *(f"--{name}={value}" for name, value in flags.items())]


def measure(command: list[str], steps: int) -> Measured:
    """Runs a program that shows a progress bar of `steps` steps.

    Raises:
        RuntimeError: when it fails; with the end of its output.
    """
    result, text = Measured(), ""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, result))
    sampler.start()
    try:
        pattern = re.compile(rf"\b(\d+)/{steps} \[")
        while block := os.read(process.stdout.fileno(), 1 << 16):
            text = text[-4000:] + block.decode(errors="replace")
            for done in map(int, pattern.findall(text)):
                result.record(done, time.perf_counter() - started, process.pid)
    except BaseException:
        process.kill()
        raise
    finally:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.join()
    if process.returncode or not result.steps:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    result.peak_resident = usage.ru_maxrss * 1024
    return result


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far: user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """The current environment without network, with every step shown in the progress bar, and with a torchvision."""
    paths = [str(ROOT)] if has_torchvision() else [str(ROOT), str(STAND_IN)]
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TQDM_MININTERVAL": "0",
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def has_torchvision() -> bool:
    """Whether the real torchvision is installed."""
    return importlib.util.find_spec("torchvision") is not None


def write_diffusers_layout(workload: Workload, folder: Path) -> Path:
    """The workload's checkpoint as a folder that diffusers reads, in the number format of the checkpoint's file."""
    with workload.host().lease() as checkpoint:
        stored = torch.float16 if workload.stored_in_half() else torch.float32
        return write_diffusers_layout_of(DiffusersDenoiser.open(checkpoint, CheckpointConfig()), folder, stored)


def write_diffusers_layout_of(denoiser: DiffusersDenoiser, folder: Path, stored: torch.dtype = torch.float32) -> Path:
    """A checkpoint of Stable Diffusion 1's kind as a folder that diffusers reads."""
    named: dict[str, Any] = {"unet": denoiser.unet, "vae": denoiser.vae, "text_encoder": denoiser.text_encoders[0]}
    denoiser.unet.register_to_config(sample_size=64)  # Stable Diffusion 1.5's; its pipeline requires one
    for name, module in named.items():
        module.to(stored).save_pretrained(folder / name)
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    named |= {"tokenizer": denoiser.checkpoint.text_encoders[0].tokenizer, "scheduler": schedule}
    for name in ("tokenizer", "scheduler"):
        named[name].save_pretrained(folder / name)
    libraries = {"text_encoder": "transformers", "tokenizer": "transformers"}
    index: dict[str, Any] = {
        name: [libraries.get(name, "diffusers"), type(part).__name__] for name, part in named.items()
    }
    index |= {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _sample_memory(pid: int, result: Measured) -> None:
    """Records the largest RssAnon until the process has ended."""
    pattern = re.compile(r"RssAnon:\s+(\d+) kB")
    while True:
        try:
            found = pattern.search(Path(f"/proc/{pid}/status").read_text())
        except OSError:
            return
        if found is None:  # a zombie: it has ended and was not waited for yet
            return
        result.peak_anonymous = max(result.peak_anonymous, int(found[1]) * 1024)
        time.sleep(SAMPLE_SECONDS)
