"""The main job on the embedded checkpoint: teach it a star, which it has never seen, and measure what it learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.cli.progress import Terminal, counter, stop_on_interrupt
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARIZATION
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.evaluation.cells import Request
from lib_lora_train.evaluation.comparison import Comparison, Scores, compare
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train
from tests.assets import V_CHECKPOINT, XL_CHECKPOINT

EvaluationPrompt = tuple[str, str, str]
"""(shape, colour, background) that a prompt asks for."""

STRENGTHS = (0.0, 0.5, 1.0)
GUIDANCE = 5.0
SHOWN = 4
"""Pictures in each cell of the grid: three stars and a shape that is to stay as it was."""


VARIANTS: dict[Path, dict[str, Any]] = {
    V_CHECKPOINT: {"learning_rate": 1.5e-3, "epochs": 5},
    # Held out, one of the twelve would be missed: this network learns slowest (benchmarks/results/learning-2-cores.txt).
    XL_CHECKPOINT: {"learning_rate": 3e-3, "conv_rank": 16, "epochs": 20, "validation_images": 0},
}
"""What the embedded checkpoint's twins are taught the star with, where it differs from the demo."""


def demo_config(output: Path, seed: int = 0, checkpoint: Path = CHECKPOINT) -> TrainConfig:
    """The demo's settings; all that is not here is the default. checkpoint: the embedded one, or a twin of it."""
    return TrainConfig.from_flat(
        {
            "name": "star",
            "lora_dir": output / "models" / "Lora",
            "runs_dir": output / "runs",
            "seed": seed,
            "checkpoint": checkpoint,
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
            "sample_prompts": [caption(*asked_stars()[0])],
            "sample_cfg_scale": GUIDANCE,
            **VARIANTS.get(checkpoint, {}),
        }
    )


def asked_stars() -> list[EvaluationPrompt]:
    """A prompt for the new shape in each colour, backgrounds going round."""
    return [(NEW_SHAPE, color, back) for color, back in zip(COLORS, itertools.cycle(BACKGROUNDS), strict=False)]


def asked_others() -> list[EvaluationPrompt]:
    """A prompt for each known shape, colours and backgrounds going round."""
    rounds = zip(SHAPES, itertools.cycle(COLORS), itertools.cycle(BACKGROUNDS), strict=False)
    return [(shape, color, back) for shape, color, back in rounds]


def asked_wishes() -> list[EvaluationPrompt]:
    """What every cell is asked for; the first `SHOWN` are in the picture."""
    stars, others = asked_stars(), asked_others()
    shown = [stars[0], stars[2], stars[4], others[1]]
    return shown + [prompt for prompt in stars + others if prompt not in shown]


def score(evaluation_prompts: Sequence[EvaluationPrompt], images: Sequence[Image.Image]) -> Scores:
    """Shares 0..1: the concept where it was control for, its leak where it was not, colour and background as control."""
    seen = [(prompt, measure(image)) for prompt, image in zip(evaluation_prompts, images, strict=True)]
    asked = [m for (shape, _, _), m in seen if shape == NEW_SHAPE]
    others = [m for (shape, _, _), m in seen if shape != NEW_SHAPE]
    return {
        "concept": sum(m.shape == NEW_SHAPE for m in asked) / max(1, len(asked)),
        "leak": sum(m.shape == NEW_SHAPE for m in others) / max(1, len(others)),
        "colour": sum(m.color == color for (_, color, _), m in seen) / len(seen),
        "background": sum(m.background == back for (_, _, back), m in seen) / len(seen),
    }


def run_demo(output: Path) -> int:
    """Trains, compares, and says where things are; takes up a demo that was interrupted."""
    config = demo_config(output)
    folder = RunFolder.at(config)
    if folder.final_file.is_file():
        print(f"The star is trained already: {folder.final_file}. Delete {output} to train it again.")
    else:
        host = standalone_host(config.model)
        with stop_on_interrupt() as control, Terminal() as terminal:
            if folder.path.is_dir():
                finished = resume(folder.path, host, terminal, control)
            else:
                finished = train(config, host, terminal, control)
        if finished is None:
            print("Stopped. Go on with the same command.")
            return 130
    comparison = compare_demo(RunFolder.open(folder.path), output / "star-grid.png")
    print(_summary(comparison))
    return 0


def compare_demo(folder: RunFolder, output: Path) -> Comparison:
    """The grid of the demo's run, every cell scored by reading its pictures."""
    evaluation_prompts = asked_wishes()
    request = Request(
        [caption(*prompt) for prompt in evaluation_prompts],
        list(range(1, len(evaluation_prompts) + 1)),
        STRENGTHS,
        at_once=40,
    )
    show, bar = counter("drawing the grid")
    with bar:
        return compare(
            folder,
            standalone_host(folder.config.model),
            request,
            output,
            shown=SHOWN,
            score=lambda prompts, images: score(evaluation_prompts, images),
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
            f"At strength 1 it draws the star in {scores['concept']:.0%} of the prompts that ask for it, and in "
            f"{scores['leak']:.0%} of the others.",
            "",
            f"  use      {comparison.recommended_file}",
            f"  grid     {comparison.grid}",
            f"  figures  {comparison.figures}",
        ]
    )
