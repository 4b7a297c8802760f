"""What peers' own code teaches the embedded checkpoint, beside ours: the same words and images, steps, batches and ranks.

    python -m benchmarks.bench_peers [--leco CLONE] [--sliders CLONE] [--traintrain CLONE] [--dreambooth SCRIPT]
                                     [--rates 1e-3 2e-3] [--seeds 0] [--output FILE]

CLONE is a clone of p1atdev/LECO, rohitgandikota/sliders or hako-mikan/sd-webui-traintrain, SCRIPT is diffusers'
train_dreambooth_lora.py of the release installed here. Each trains in a process of its own, at each rate; pictures are
drawn with its adapter as with ours, and read by the measurer.
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

from benchmarks.bench_dreambooth import HEADER, WISHES, bare_stars, drawn_with, named_stars, score, star_config
from benchmarks.bench_learning import generator
from benchmarks.bench_tasks import written
from benchmarks.peer import ROOT, environment, write_diffusers_layout_of
from benchmarks.table import print_table
from benchmarks.tasks import COMMON, LESSONS, Task, pencil, trained
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded.synthetic import caption
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import train

BY_NAME = {task.name: task for task in LESSONS}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A lesson that a peer can be given, too."""

    peer: str
    program: str
    task: Task
    what: str
    settings: Callable[[Task, Path], Settings]
    """What the peer's program is told, of the lesson and its folder of images."""
    units: tuple[float, ...] = (1.0,)
    """What is taken for strength 1: TrainTrain learns pairs at a quarter of it."""


def erasing(task: Task, folder: Path) -> Settings:
    """LECO's prompt file. A line that keeps is one whose positive prompt is the unconditional one."""
    lines = [line.split(" -> ") for line in task.settings["changes"]]
    prompts = [
        {"target": what, "neutral": into, "positive_prompts": "" if what == into else "a circle", "action": "erase"}
        for what, into in lines
    ]
    return _words(task, prompts)


def text_slider(task: Task, folder: Path) -> Settings:
    """The text sliders' prompt file."""
    lines = [line.split(" -> ") for line in task.settings["changes"]]
    prompts = [
        {"target": what, "neutral": what, "unconditional": low, "positive_prompts": high, "action": "enhance"}
        for what, (low, high) in zip(task.settings["slides"], lines, strict=True)
    ]
    return _words(task, prompts)


def _words(task: Task, prompts: list[dict[str, Any]]) -> Settings:
    conditioning = _all_settings(task)
    common = {
        "unconditional": "",
        "guidance_scale": conditioning["guidance"],
        "resolution": 64,
        "batch_size": conditioning["batch_size"],
    }
    return {
        "prompts": [{**common, **prompt} for prompt in prompts],
        "rank": conditioning["rank"],
        "steps": conditioning["steps_per_epoch"],
        "denoising_steps": conditioning["denoising_steps"],
    }


def swapping(task: Task, folder: Path) -> Settings:
    """TrainTrain's iLECO takes one pair of prompts."""
    return {
        "training_method": "iLECO",
        "prompt_pairs": task.settings["changes"][0].split(" -> "),
        "conv": False,
        **_run(task),
    }


def pairing(task: Task, folder: Path) -> Settings:
    """TrainTrain's Multi-ADDifT."""
    first, *_, last = task.levels
    before = sorted((folder / first).glob("*.png"))
    pairs = [[str(image), str(folder / last / image.name)] for image in before]
    return {"training_method": "ADDifT", "pairs": pairs, "conv": True, **_run(task)}


def _run(task: Task) -> Settings:
    conditioning = _all_settings(task)
    same = {name: conditioning[name] for name in ("rank", "batch_size", "min_timestep", "max_timestep")}
    return {**same, "steps": conditioning["max_steps"] or conditioning["steps_per_epoch"]}


def _all_settings(task: Task) -> Settings:
    return TrainConfig.from_flat({**COMMON, **task.settings}).to_flat()


def trials() -> list[Trial]:
    erase = BY_NAME["erase"]
    return [
        Trial("leco", "leco", erase.varied(erase.variants["nothing kept"]), "erase, nothing kept", erasing),
        Trial("leco", "leco", erase, "erase", erasing),
        Trial("sliders", "leco", BY_NAME["word-slider"], "word-slider", text_slider),
        Trial("traintrain", "traintrain", BY_NAME["swap"], "swap", swapping),
        Trial("traintrain", "traintrain", BY_NAME["outline"], "outline", pairing, (1.0, 0.25)),
        Trial("traintrain", "traintrain", BY_NAME["size"], "size", pairing, (1.0, 0.25)),
    ]


FOLDERS = {"leco": "", "sliders": "trainscripts/textsliders", "traintrain": ""}
"""Where in a clone the peer's training code is."""


def main() -> None:
    """Prints the table, and keeps it in --output."""
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
    return parser.parse_args()


def table(values: argparse.Namespace) -> Iterator[str]:
    """The lines, as they are found."""
    for trial in trials():
        clone = getattr(values, trial.peer)
        if clone:
            for seed in values.seeds:
                yield f"{trial.what:20} {'ours':22} seed {seed}   {written(trained(trial.task, seed).figures)}"
                for rate in values.rates:
                    yield from peer_lines(trial, clone.resolve() / FOLDERS[trial.peer], seed, rate)
    if values.dreambooth:
        for seed in values.seeds:
            yield from dreambooth_lines(values.dreambooth.resolve(), seed, values.rates)


def peer_lines(trial: Trial, clone: Path, seed: int, rate: float) -> Iterator[str]:
    """Runs the peer, and reads what its adapter draws."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = trial.task.config(folder, seed)
        out, conditioning = folder / "peer.safetensors", folder / "settings.json"
        settings = {
            **trial.settings(trial.task, folder / "images"),
            "learning_rate": rate,
            "seed": seed,
            "out": str(out),
        }
        conditioning.write_text(json.dumps(settings), encoding="utf-8")
        run([sys.executable, "-m", f"benchmarks.peers.{trial.program}", str(clone), str(conditioning)])
        for unit in trial.units:
            with pencil(config, out, unit) as draw:
                figures = trial.task.measured(draw)
            name = f"{trial.peer}, rate {rate:g}" + (f", x {unit:g}" if unit != 1 else "")
            yield f"{trial.what:20} {name:22} seed {seed}   {written(figures)}"


def dreambooth_lines(script: Path, seed: int, rates: list[float]) -> Iterator[str]:
    """Our run with prior preservation, and the script's with the same stars and the same images of the class."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = star_config(folder, named_stars(folder / "stars"), seed)
        train(config, standalone_host(config.model))
        last = RunFolder.at(config).points()[-1]
        yield f"{'':43} {HEADER}"
        yield f"{'dreambooth':20} {'ours':22} {score('', seed, last.epoch, drawn_with(config, last))}"
        stars, drawn = bare_stars(folder / "bare"), folder / "class"
        drawn.mkdir()
        with standalone_host(config.model).lease() as checkpoint:
            parts = DiffusersDenoiser.open(checkpoint, config.model)
            images = generator(parts, config, checkpoint)(
                [caption("shape", *prompt) for prompt in WISHES], range(len(WISHES))
            )
            model = write_diffusers_layout_of(parts, folder / "diffusers")
        for number, image in enumerate(images):
            image.save(drawn / f"{number}.png")
        for rate in rates:
            out = folder / f"peer-{rate:g}"
            run(dreambooth_command(script, model, stars, drawn, out, seed, rate))
            adapter = kohya_named(out / "pytorch_lora_weights.safetensors", out / "peer.safetensors")
            conditioning = TrainConfig.from_flat({**config.to_flat(), "continue_from": str(adapter)})
            row = score("", seed, last.epoch, drawn_with(conditioning, replace(last, path=adapter)))
            yield f"{'dreambooth':20} {f'diffusers, rate {rate:g}':22} {row}"


def dreambooth_command(
    script: Path, model: Path, stars: Path, drawn: Path, out: Path, seed: int, rate: float
) -> list[str]:
    """The script takes one prompt for all images, and one for all of the class."""
    flags = {
        "pretrained_model_name_or_path": model,
        "instance_data_dir": stars,
        "class_data_dir": drawn,
        "output_dir": out,
        "instance_prompt": "a sks shape",
        "class_prompt": "a shape",
        "num_class_images": len(WISHES),
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
    """A file of diffusers' own kind in kohya's words. Its alpha is its rank, as it is where a file names none."""
    words = {".lora_A.": ".lora_down.", ".lora_B.": ".lora_up.", ".lora.down.": ".lora_down.", ".lora.up.": ".lora_up."}
    named = {}
    for key, tensor in load_file(theirs).items():
        for old, new in words.items():
            key = key.replace(old, new)
        layer, kind = key.removeprefix("unet.").rsplit(".lora_", 1)
        named[f"lora_unet_{layer.replace('.', '_')}.lora_{kind}"] = tensor
    save_file(named, out)
    return out


def run(command: list[str]) -> None:
    """Runs a program.

    Raises:
        RuntimeError: when it fails; with the end of what it printed.
    """
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")


if __name__ == "__main__":
    main()
