"""The main job on the embedded checkpoint: teach it a star, which it has never seen, and measure what it learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.cli.progress import Terminal, counter, stop_on_interrupt
from lib_lora_train.compare.cells import Request
from lib_lora_train.compare.comparison import Comparison, Scores, compare
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARISATION, V_CHECKPOINT, XL_CHECKPOINT
from lib_lora_train.embedded.measure import measure
from lib_lora_train.embedded.world import BACKGROUNDS, COLOURS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train

Wish = tuple[str, str, str]
"""(shape, colour, background) that a prompt asks for."""

STRENGTHS = (0.0, 0.5, 1.0)
GUIDANCE = 5.0
SHOWN = 4
"""Pictures in each cell of the grid: three stars and a shape that is to stay as it was."""


TWINS: dict[Path, dict[str, Any]] = {
    V_CHECKPOINT: {"learning_rate": 1.5e-3, "epochs": 5},
    # Held out, one of the twelve would be missed: this network learns slowest (benchmarks/results/learning-2-cores.txt).
    XL_CHECKPOINT: {"learning_rate": 3e-3, "conv_rank": 16, "epochs": 20, "held_out_images": 0},
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
            "images": DEMO_IMAGES,
            "regularisation": DEMO_REGULARISATION,
            "resolution": 64,
            "batch_size": 16,
            "repeats": 36,
            "prior_weight": 0.4,
            "epochs": 4,
            "flip": True,
            "caption_dropout": 0.1,
            "weighting": "min_snr",
            "rank": 16,
            "conv_rank": 8,
            "learning_rate": 2.5e-3,
            "warmup_steps": 10,
            "preview_every": 2,
            "preview_prompts": [caption(*asked_stars()[0])],
            "preview_guidance": GUIDANCE,
            **TWINS.get(checkpoint, {}),
        }
    )


def asked_stars() -> list[Wish]:
    """A prompt for the new shape in each colour, backgrounds going round."""
    return [(NEW_SHAPE, colour, back) for colour, back in zip(COLOURS, itertools.cycle(BACKGROUNDS), strict=False)]


def asked_others() -> list[Wish]:
    """A prompt for each known shape, colours and backgrounds going round."""
    rounds = zip(SHAPES, itertools.cycle(COLOURS), itertools.cycle(BACKGROUNDS), strict=False)
    return [(shape, colour, back) for shape, colour, back in rounds]


def asked_wishes() -> list[Wish]:
    """What every cell is asked for; the first `SHOWN` are in the picture."""
    stars, others = asked_stars(), asked_others()
    shown = [stars[0], stars[2], stars[4], others[1]]
    return shown + [wish for wish in stars + others if wish not in shown]


def score(wishes: Sequence[Wish], images: Sequence[Image.Image]) -> Scores:
    """Shares 0..1: the concept where it was control for, its leak where it was not, colour and background as control."""
    seen = [(wish, measure(image)) for wish, image in zip(wishes, images, strict=True)]
    asked = [m for (shape, _, _), m in seen if shape == NEW_SHAPE]
    others = [m for (shape, _, _), m in seen if shape != NEW_SHAPE]
    return {
        "concept": sum(m.shape == NEW_SHAPE for m in asked) / max(1, len(asked)),
        "leak": sum(m.shape == NEW_SHAPE for m in others) / max(1, len(others)),
        "colour": sum(m.colour == colour for (_, colour, _), m in seen) / len(seen),
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
    wishes = asked_wishes()
    request = Request([caption(*wish) for wish in wishes], list(range(1, len(wishes) + 1)), STRENGTHS, at_once=40)
    show, bar = counter("drawing the grid")
    with bar:
        return compare(
            folder,
            standalone_host(folder.config.model),
            request,
            output,
            shown=SHOWN,
            score=lambda prompts, images: score(wishes, images),
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
