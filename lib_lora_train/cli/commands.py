"""What each command does: thin, since a session and a comparison do the work."""

from __future__ import annotations

import argparse
import importlib.util
import typing
from pathlib import Path

from lib_lora_train.cli.arguments import PROGRAM, run_config, run_path
from lib_lora_train.config import CheckpointConfig, CompareConfig, Problem, TrainConfig, fields_of, raise_problems
from lib_lora_train.errors import UserError

if typing.TYPE_CHECKING:  # rooms with torch in them are imported when a command runs, so that --help is quick
    from lib_lora_train.hosts.base import Host

EXIT_INTERRUPTED = 130


def train(values: argparse.Namespace) -> int:
    """Trains, or says all that is wrong with the settings at once."""
    from lib_lora_train.cli.progress import Terminal, stop_on_interrupt
    from lib_lora_train.training.session import train as run

    config = run_config(values)
    raise_problems(command_line_problems(config))
    with stop_on_interrupt() as control, Terminal() as terminal:
        finished = run(config, standalone_host(config.model), terminal, control)
    return _ended(finished, Path(config.run.runs_dir) / config.run.name)


def resume(values: argparse.Namespace) -> int:
    """Goes on with a run."""
    from lib_lora_train.cli.progress import Terminal, stop_on_interrupt
    from lib_lora_train.training.run_folder import RunFolder
    from lib_lora_train.training.session import resume as run

    path = run_path(values)
    config = RunFolder.open(path).config
    with stop_on_interrupt() as control, Terminal() as terminal:
        finished = run(path, standalone_host(config.model), terminal, control)
    return _ended(finished, path)


def plan(values: argparse.Namespace) -> int:
    """Prints the plan."""
    from lib_lora_train.training.plan import make_plan

    config = run_config(values)
    raise_problems(command_line_problems(config))
    print(make_plan(config, standalone_host(config.model)))
    return 0


def inspect(values: argparse.Namespace) -> int:
    """Prints what an adapter file holds."""
    from lib_lora_train.adapters.inspect import format_report, inspect_adapter

    print(format_report(inspect_adapter(values.file)))
    return 0


def compare(values: argparse.Namespace) -> int:
    """Draws the grid of a run."""
    from lib_lora_train.cli.progress import counter
    from lib_lora_train.evaluation.cells import request_of
    from lib_lora_train.evaluation.comparison import compare as draw
    from lib_lora_train.training.run_folder import RunFolder

    given = vars(values)
    options = CompareConfig(**{f.name: given[f.name] for f in fields_of(CompareConfig) if f.name in given})
    folder = RunFolder.open(run_path(values))
    output = Path(options.output) if options.output else folder.path / f"{folder.config.run.name}-grid.png"
    request = request_of(folder.config, options)
    show, bar = counter("drawing")
    with bar:
        comparison = draw(folder, standalone_host(folder.config.model), request, output, progress=show)
    print(f"{comparison.recommendation.reason}\n{comparison.recommended_file}\n{comparison.grid}\n{comparison.figures}")
    return 0


def demo(values: argparse.Namespace) -> int:
    """The main job on the embedded checkpoint."""
    from lib_lora_train.cli.demo import run_demo

    return run_demo(values.output)


def ui(values: argparse.Namespace) -> int:
    """The tab as a page of its own."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("The page needs gradio, which is not installed. Run: pip install -r requirements/ui.txt")
    from lib_lora_train.embedded import CHECKPOINT
    from lib_lora_train.ui.standalone import serve

    checkpoint = values.checkpoint.expanduser().resolve() if values.checkpoint else CHECKPOINT
    return serve(values.output, checkpoint, values.port, listen=values.listen)


COMMANDS = {
    "train": train,
    "plan": plan,
    "resume": resume,
    "inspect": inspect,
    "compare": compare,
    "demo": demo,
    "ui": ui,
}


def standalone_host(config: CheckpointConfig) -> Host:
    """The host of a command line: the checkpoint's file, on the machine's own device."""
    from lib_lora_train.hosts.standalone import StandaloneHost, default_device

    return StandaloneHost(config, default_device())


def command_line_problems(config: TrainConfig) -> list[Problem]:
    """All faults at once, also of what only a command line must be told."""
    problems = config.problems()
    if not config.model.checkpoint:
        problems.append(
            Problem("checkpoint", "is not given. Add --checkpoint FILE, a Stable Diffusion 1.x .safetensors.")
        )
    if config.uses("dataset_folder") and not config.dataset.dataset_folder:
        problems.append(
            Problem("dataset_folder", "is not given. Add --dataset-folder FOLDER, with the images to learn.")
        )
    return problems


def _ended(finished: Path | None, run: Path) -> int:
    if finished is None:
        print(f"Go on with: {PROGRAM} resume {run.name} --runs-dir {run.parent}")
        return EXIT_INTERRUPTED
    return 0
