"""The demo: trains the embedded checkpoint on a star, which it has never seen, and measures what it learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.cli.progress import Terminal, counter, stop_on_interrupt
from lib_lora_train.config import SamplePrompt, TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARIZATION
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.evaluation.cells import Request
from lib_lora_train.evaluation.comparison import Comparison, Scores, compare
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train

EvaluationPrompt = tuple[str, str, str]
"""(shape, color, background) that a prompt asks for."""

STRENGTHS = (0.0, 0.5, 1.0)
GUIDANCE = 5.0
SHOWN = 4
"""Images in each cell of the grid: three stars and a shape that should not change."""


def demo_config(output: Path, seed: int = 0, **changes: Any) -> TrainConfig:
    """The demo's settings with these changes; every other setting has its default."""
    return TrainConfig.from_flat(
        {
            "name": "star",
            "lora_dir": output / "models" / "Lora",
            "runs_dir": output / "runs",
            "seed": seed,
            "checkpoint": CHECKPOINT,
            "dataset_folder": DEMO_IMAGES,
            "regularization_folder": DEMO_REGULARIZATION,
            "resolution": 64,
            "batch_size": 16,
            "repeats": 36,
            "prior_loss_weight": 0.4,
            "epochs": 4,
            "flip_horizontally": True,
            "caption_dropout_rate": 0.1,
            "loss_weighting": "min_snr",
            "rank": 16,
            "conv_rank": 8,
            "learning_rate": 2.5e-3,
            "lr_warmup_steps": 10,
            "sample_every_n_epochs": 2,
            "sample_prompts": [caption(*star_prompts()[0])],
            "sample_cfg_scale": GUIDANCE,
            **changes,
        }
    )


def star_prompts() -> list[EvaluationPrompt]:
    """One prompt for the star in each color, with the backgrounds in turn."""
    return [(NEW_SHAPE, color, back) for color, back in zip(COLORS, itertools.cycle(BACKGROUNDS), strict=False)]


def known_shape_prompts() -> list[EvaluationPrompt]:
    """One prompt for each shape that the checkpoint knows, with colors and backgrounds in turn."""
    attributes = zip(SHAPES, itertools.cycle(COLORS), itertools.cycle(BACKGROUNDS), strict=False)
    return [(shape, color, back) for shape, color, back in attributes]


def evaluation_prompts() -> list[EvaluationPrompt]:
    """The prompts of each cell. The grid shows the images of the first `SHOWN`."""
    stars, known = star_prompts(), known_shape_prompts()
    shown = [stars[0], stars[2], stars[4], known[1]]
    return shown + [prompt for prompt in stars + known if prompt not in shown]


def score(prompts: Sequence[EvaluationPrompt], images: Sequence[Image.Image]) -> Scores:
    """Shares from 0 to 1.

    concept: of the prompts for the star, how many images show one. leak: of the other prompts, how many show one all the
    same. color, background: of all prompts, how many images have the one in the prompt.
    """
    measured = [(prompt, measure(image)) for prompt, image in zip(prompts, images, strict=True)]
    stars = [m for (shape, _, _), m in measured if shape == NEW_SHAPE]
    others = [m for (shape, _, _), m in measured if shape != NEW_SHAPE]
    return {
        "concept": sum(m.shape == NEW_SHAPE for m in stars) / max(1, len(stars)),
        "leak": sum(m.shape == NEW_SHAPE for m in others) / max(1, len(others)),
        "color": sum(m.color == color for (_, color, _), m in measured) / len(measured),
        "background": sum(m.background == back for (_, _, back), m in measured) / len(measured),
    }


def run_demo(output: Path) -> int:
    """Trains or resumes the demo's run, generates its grid, and prints the results and where they are."""
    config = demo_config(output)
    folder = RunFolder.at(config)
    if folder.final_file.is_file():
        print(f"The adapter exists already: {folder.final_file}. Delete {output} to train it again.")
    else:
        host = standalone_host(config.model)
        with stop_on_interrupt() as control, Terminal() as terminal:
            if folder.path.is_dir():
                finished = resume(folder.path, host, terminal, control)
            else:
                finished = train(config, host, terminal, control)
        if finished is None:
            print("Stopped. Run the same command to resume.")
            return 130
    comparison = compare_demo(RunFolder.open(folder.path), output / "star-grid.png")
    print(_summary(comparison))
    return 0


def compare_demo(folder: RunFolder, output: Path) -> Comparison:
    """The grid of the demo's run, with the measured scores of each cell."""
    prompts = evaluation_prompts()
    request = Request(
        [SamplePrompt(caption(*prompt)) for prompt in prompts],
        list(range(1, len(prompts) + 1)),
        STRENGTHS,
        at_once=40,
    )
    show, bar = counter("generating the grid")
    with bar:
        return compare(
            folder,
            standalone_host(folder.config.model),
            request,
            output,
            shown=SHOWN,
            score=lambda _, images: score(prompts, images),
            caption=lambda scores: f"star {scores['concept']:.0%} · leak {scores['leak']:.0%}",
            progress=show,
        )


def _summary(comparison: Comparison) -> str:
    best = comparison.recommendation
    scores = comparison.scores[best.epoch, 1.0]
    return "\n".join(
        [
            "",
            best.reason,
            f"At strength 1, {scores['concept']:.0%} of the images for star prompts show a star, and {scores['leak']:.0%} of "
            "the images for other prompts.",
            "",
            f"  adapter  {comparison.recommended_file}",
            f"  grid     {comparison.grid}",
            f"  figures  {comparison.figures}",
        ]
    )
