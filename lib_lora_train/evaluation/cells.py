"""Generates images with every epoch of a run at every strength, on the checkpoint it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.config import CompareConfig, SamplePrompt, TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.lora_tag import strength_text
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.run_folder import AdapterPoint
from lib_lora_train.training.samples import sample_groups, sample_prompts, txt2img_request
from lib_lora_train.training.tasks import read_task_data

Progress = Callable[[int, int], None]
"""Called with (cells done, cells in all)."""


def no_progress(done: int, cells: int) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Cell:
    """The images of one epoch at one strength, in the order of the prompts."""

    point: AdapterPoint
    strength: float
    images: list[Image.Image]


@dataclass(frozen=True)
class Request:
    """What to generate in every cell: one image for each prompt and seed; `at_once` of them together."""

    prompts: Sequence[SamplePrompt]
    seeds: Sequence[int]
    strengths: Sequence[float]
    at_once: int = 8


def generate_cells(
    host: Host,
    config: TrainConfig,
    points: Sequence[AdapterPoint],
    request: Request,
    progress: Progress = no_progress,
) -> Iterator[Cell]:
    """Uses our own sampler, in one GPU slot of the host, with the run's sampling settings.

    The files of all epochs are loaded into the same adapter, one after another.

    Raises:
        UserError: when an adapter file is damaged or does not fit the checkpoint.
    """
    with host.lease() as checkpoint, host.gpu_slot():
        denoiser = open_denoiser(checkpoint, config.model)
        adapter = make_adapter(denoiser, _with_layers_of(config, points[0].path))
        groups = sample_groups(config, request.prompts, request.seeds)
        loaded: list[AdapterPoint] = []

        def images_of(point: AdapterPoint, strength: float) -> list[Image.Image]:
            if loaded != [point]:
                load_weights(adapter, load_adapter(point.path))
                loaded[:] = [point]
            with adapter.strength(strength):
                return [
                    image
                    for group in groups
                    for image in generate(
                        denoiser, group.prompts, group.negative, group.seeds, group.options, request.at_once
                    )
                ]

        yield from _cells(points, request, images_of, progress)


def generate_cells_by_tag(
    txt2img: Txt2Img,
    config: TrainConfig,
    points: Sequence[AdapterPoint],
    request: Request,
    progress: Progress = no_progress,
) -> Iterator[Cell]:
    """Uses a WebUI's own txt2img, with the adapter's tag at the end of each prompt."""

    def images_of(point: AdapterPoint, strength: float) -> list[Image.Image]:
        tag = f" <lora:{point.path.stem}:{strength_text(strength)}>" if strength else ""
        prompts = [replace(prompt, text=f"{prompt.text}{tag}") for prompt in request.prompts]
        return [
            txt2img(txt2img_request(config, prompt, seed)) for prompt, seed in zip(prompts, request.seeds, strict=True)
        ]

    yield from _cells(points, request, images_of, progress)


def _cells(
    points: Sequence[AdapterPoint],
    request: Request,
    images_of: Callable[[AdapterPoint, float], list[Image.Image]],
    progress: Progress,
) -> Iterator[Cell]:
    """Row by row. At strength 0 every epoch is the base model, so it is generated once."""
    base: list[Image.Image] | None = None
    total, done = len(points) * len(request.strengths), 0
    for point in points:
        for strength in request.strengths:
            images = base if strength == 0 and base is not None else images_of(point, strength)
            if strength == 0:
                base = images
            yield Cell(point, strength, images)
            done += 1
            progress(done, total)


def _with_layers_of(config: TrainConfig, path: Path) -> TrainConfig:
    """`config` with the layers, ranks and alphas of the file at `path`."""
    return replace(config, adapter=replace(config.adapter, continue_from=str(path)))


def request_of(config: TrainConfig, options: CompareConfig) -> Request:
    """The request for `options`, with their prompts, else the run's sample prompts, else those of its training data.

    Raises:
        UserError: when a prompt has a wrong flag, there is no prompt, or the training data is needed and cannot be read.
    """
    written = options.prompts or config.samples.sample_prompts
    prompts = [SamplePrompt.parse(line) for line in written] or sample_prompts(config, read_task_data(config))
    if not any(prompt.text for prompt in prompts):
        raise UserError("There is no prompt to generate images from. Enter at least one.", field="prompts")
    return Request(prompts, [options.seed] * len(prompts), options.strengths)
