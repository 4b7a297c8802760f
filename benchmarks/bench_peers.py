"""What peers' own code trains on the embedded checkpoint, beside ours: same prompts, images, steps, batches and ranks.

    python -m benchmarks.bench_peers [--leco CLONE] [--sliders CLONE] [--traintrain CLONE] [--dreambooth SCRIPT]
                                     [--rates 1e-3 2e-3] [--seeds 0] [--output FILE]

CLONE is a clone of p1atdev/LECO, rohitgandikota/sliders or hako-mikan/sd-webui-traintrain, SCRIPT is diffusers'
train_dreambooth_lora.py of the release installed here. Each trains in its own process, at each rate. Images are
generated with its adapter in the same way as with ours, and measured by the evaluator.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.bench_dreambooth import HEADER, PROMPTS, bare_stars, generated, named_stars, score, star_config
from benchmarks.bench_learning import generator
from benchmarks.bench_tasks import figures_text
from benchmarks.peer import ROOT, environment, require_file, write_diffusers_layout_of
from benchmarks.table import print_table
from benchmarks.tasks import COMMON, TASKS, Task, adapter_images, train_and_measure
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded.synthetic import caption
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import train

BY_NAME = {task.name: task for task in TASKS}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A task that a peer can train, too.

    Attributes:
        program: the module of `benchmarks.peers` that runs the peer.
        settings: the program's settings, made from the task and its folder of images.
        units: what counts as strength 1, one after another; TrainTrain trains pairs at strength 0.25.
    """

    peer: str
    program: str
    task: Task
    what: str
    settings: Callable[[Task, Path], Settings]
    units: tuple[float, ...] = (1.0,)


def erasing(task: Task, folder: Path) -> Settings:
    """LECO's prompt file. In a pair that changes nothing, the positive prompt is the unconditional one."""
    prompts = [
        {"target": old, "neutral": new, "positive": "" if old == new else "a circle", "action": "erase"}
        for old, new in _pairs(task)
    ]
    return _prompt_settings(task, prompts)


def text_slider(task: Task, folder: Path) -> Settings:
    """The text sliders' prompt file."""
    prompts = [
        {"target": target, "neutral": target, "unconditional": low, "positive": high, "action": "enhance"}
        for target, (low, high) in zip(task.settings["target_prompts"], _pairs(task), strict=True)
    ]
    return _prompt_settings(task, prompts)


def _pairs(task: Task) -> list[list[str]]:
    return [line.split(" -> ") for line in task.settings["prompt_pairs"]]


def _prompt_settings(task: Task, prompts: list[dict[str, Any]]) -> Settings:
    settings = _all_settings(task)
    common = {
        "unconditional": "",
        "guidance_scale": settings["guidance_scale"],
        "resolution": 64,
        "batch_size": settings["batch_size"],
    }
    return {
        "prompts": [{**common, **prompt} for prompt in prompts],
        "rank": settings["rank"],
        "steps": settings["steps_per_epoch"],
        "denoising_steps": settings["denoising_steps"],
    }


def swapping(task: Task, folder: Path) -> Settings:
    """TrainTrain's iLECO takes one pair of prompts."""
    return {
        "mode": "iLECO",
        "prompts": _pairs(task)[0],
        "conv": False,
        **_run(task),
    }


def pairing(task: Task, folder: Path) -> Settings:
    """TrainTrain's Multi-ADDifT."""
    first, *_, last = task.levels
    before = sorted((folder / first).glob("*.png"))
    pairs = [[str(image), str(folder / last / image.name)] for image in before]
    return {"mode": "ADDifT", "pairs": pairs, "conv": True, **_run(task)}


def _run(task: Task) -> Settings:
    settings = _all_settings(task)
    same = {name: settings[name] for name in ("rank", "batch_size", "min_timestep", "max_timestep")}
    return {**same, "steps": settings["max_steps"] or settings["steps_per_epoch"]}


def _all_settings(task: Task) -> Settings:
    return TrainConfig.from_flat({**COMMON, **task.settings}).to_flat()


def trials() -> list[Trial]:
    erase = BY_NAME["erase"]
    return [
        Trial("leco", "leco", erase.varied(erase.variants["no unchanged pairs"]), "erase, all", erasing),
        Trial("leco", "leco", erase, "erase", erasing),
        Trial("sliders", "leco", BY_NAME["text-slider"], "text-slider", text_slider),
        Trial("traintrain", "traintrain", BY_NAME["swap"], "swap", swapping),
        Trial("traintrain", "traintrain", BY_NAME["outline"], "outline", pairing, (1.0, 0.25)),
        Trial("traintrain", "traintrain", BY_NAME["size"], "size", pairing, (1.0, 0.25)),
    ]


FOLDERS = {"leco": "", "sliders": "trainscripts/textsliders", "traintrain": ""}
"""Where the training code is in a clone."""
SCRIPTS = {"leco": "train_lora.py", "sliders": "train_lora.py", "traintrain": "trainer/train.py"}
"""What is used of it."""


def main() -> None:
    """Prints the table and writes it to --output."""
    values = arguments()
    print_table(table(values), values.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for peer in FOLDERS:
        parser.add_argument(f"--{peer}", type=Path, help="a clone of it")
    parser.add_argument("--dreambooth", type=Path, help="diffusers' train_dreambooth_lora.py")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path)
    values = parser.parse_args()
    if not any(getattr(values, peer) for peer in (*FOLDERS, "dreambooth")):
        sys.exit("Name at least one peer to compare with: --leco, --sliders, --traintrain or --dreambooth.")
    for peer, script in SCRIPTS.items():
        if clone := getattr(values, peer):
            require_file(clone / FOLDERS[peer] / script, f"Give --{peer} the folder of its clone.")
    if values.dreambooth:
        require_file(values.dreambooth, "Take it from the release of diffusers that is installed here.")
    return values


def table(values: argparse.Namespace) -> Iterator[str]:
    """The lines, as they are found."""
    for trial in trials():
        clone = getattr(values, trial.peer)
        if clone:
            for seed in values.seeds:
                figures = figures_text(train_and_measure(trial.task, seed).figures)
                yield f"{trial.what:20} {'ours':22} seed {seed}   {figures}"
                for rate in values.rates:
                    yield from peer_lines(trial, clone.resolve() / FOLDERS[trial.peer], seed, rate)
    if values.dreambooth:
        for seed in values.seeds:
            yield from dreambooth_lines(values.dreambooth.resolve(), seed, values.rates)


def peer_lines(trial: Trial, clone: Path, seed: int, rate: float) -> Iterator[str]:
    """Runs the peer, and measures what its adapter generates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = trial.task.config(folder, seed)
        out, settings_file = folder / "peer.safetensors", folder / "settings.json"
        settings = {
            **trial.settings(trial.task, folder / "images"),
            "learning_rate": rate,
            "seed": seed,
            "out": str(out),
        }
        settings_file.write_text(json.dumps(settings), encoding="utf-8")
        run([sys.executable, "-m", f"benchmarks.peers.{trial.program}", str(clone), str(settings_file)])
        for unit in trial.units:
            with adapter_images(config, out, unit) as images:
                figures = trial.task.measured(images)
            run_name = f"{trial.peer}, rate {rate:g}" + (f", x {unit:g}" if unit != 1 else "")
            yield f"{trial.what:20} {run_name:22} seed {seed}   {figures_text(figures)}"


def dreambooth_lines(script: Path, seed: int, rates: list[float]) -> Iterator[str]:
    """Our run with prior preservation, and the script's with the same stars and the same class images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = star_config(folder, named_stars(folder / "stars"), seed)
        train(config, standalone_host(config.model))
        last = RunFolder.at(config).points()[-1]
        yield f"{'':43} {HEADER}"
        yield f"{'dreambooth':20} {'ours':22} {score('', seed, last.epoch, generated(config, last))}"
        stars, class_images = bare_stars(folder / "bare"), folder / "class"
        class_images.mkdir()
        with standalone_host(config.model).lease() as checkpoint:
            denoiser = DiffusersDenoiser.open(checkpoint, config.model)
            prompts = [caption("shape", *prompt) for prompt in PROMPTS]
            images = generator(denoiser, config)(prompts, range(len(prompts)))
            model = write_diffusers_layout_of(denoiser, folder / "diffusers")
        for number, image in enumerate(images):
            image.save(class_images / f"{number}.png")
        for rate in rates:
            out = folder / f"peer-{rate:g}"
            run(dreambooth_command(script, model, stars, class_images, out, seed, rate))
            adapter = kohya_named(out / "pytorch_lora_weights.safetensors", out / "peer.safetensors")
            continued = TrainConfig.from_flat({**config.to_flat(), "continue_from": str(adapter)})
            row = score("", seed, last.epoch, generated(continued, replace(last, path=adapter)))
            yield f"{'dreambooth':20} {f'diffusers, rate {rate:g}':22} {row}"


def dreambooth_command(
    script: Path, model: Path, stars: Path, class_images: Path, out: Path, seed: int, rate: float
) -> list[str]:
    """The script takes one prompt for all training images, and one for all class images."""
    flags = {
        "pretrained_model_name_or_path": model,
        "instance_data_dir": stars,
        "class_data_dir": class_images,
        "output_dir": out,
        "instance_prompt": "a sks shape",
        "class_prompt": "a shape",
        "num_class_images": len(PROMPTS),
        "prior_loss_weight": 0.4,
        "resolution": 64,
        "train_batch_size": 8,
        "max_train_steps": 216,
        "rank": 16,
        "learning_rate": rate,
        "seed": seed,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 10,
        "checkpointing_steps": 10**6,
        "mixed_precision": "no",
    }
    return [
        sys.executable,
        str(script),
        "--with_prior_preservation",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def kohya_named(theirs: Path, out: Path) -> Path:
    """Writes a file in diffusers' format under kohya's names. Without a saved alpha, alpha is the rank."""
    names = {".lora_A.": ".lora_down.", ".lora_B.": ".lora_up.", ".lora.down.": ".lora_down.", ".lora.up.": ".lora_up."}
    named = {}
    for key, tensor in load_file(theirs).items():
        for old, new in names.items():
            key = key.replace(old, new)
        layer, kind = key.removeprefix("unet.").rsplit(".lora_", 1)
        named[f"lora_unet_{layer.replace('.', '_')}.lora_{kind}"] = tensor
    save_file(named, out)
    return out


def run(command: list[str]) -> None:
    """Runs a program.

    Raises:
        RuntimeError: when it fails; with the end of its output.
    """
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")


if __name__ == "__main__":
    main()
