"""The commands of the command line.

Modules that need torch are imported when a command runs, so that --help is quick.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from lib_lora_train.cli.arguments import PROGRAM, path_argument, run_config, run_path
from lib_lora_train.config import CompareConfig, Problem, TrainConfig, fields_of, raise_problems
from lib_lora_train.errors import UserError

EXIT_INTERRUPTED = 130


def train(values: argparse.Namespace) -> int:
    """Trains an adapter, or lists all problems of the settings at once."""
    from lib_lora_train.cli.progress import Terminal, stop_on_interrupt
    from lib_lora_train.hosts.standalone import standalone_host
    from lib_lora_train.training.session import train as run

    config = run_config(values)
    raise_problems(command_line_problems(config))
    with stop_on_interrupt() as control, Terminal() as terminal:
        finished = run(config, standalone_host(config.model), terminal, control)
    return _ended(finished, Path(config.run.runs_dir) / config.run.name)


def resume(values: argparse.Namespace) -> int:
    """Resumes a run."""
    from lib_lora_train.cli.progress import Terminal, stop_on_interrupt
    from lib_lora_train.hosts.standalone import standalone_host
    from lib_lora_train.training.run_folder import RunFolder
    from lib_lora_train.training.session import resume as run

    path = run_path(values)
    config = RunFolder.open(path).config
    with stop_on_interrupt() as control, Terminal() as terminal:
        finished = run(path, standalone_host(config.model), terminal, control)
    return _ended(finished, path)


def plan(values: argparse.Namespace) -> int:
    """Prints the plan."""
    from lib_lora_train.hosts.standalone import standalone_host
    from lib_lora_train.training.plan import make_plan

    config = run_config(values)
    raise_problems(command_line_problems(config))
    print(make_plan(config, standalone_host(config.model)))
    return 0


def inspect(values: argparse.Namespace) -> int:
    """Prints what an adapter file contains."""
    from lib_lora_train.adapters.inspect import format_report, inspect_adapter

    print(format_report(inspect_adapter(values.file)))
    return 0


def compare(values: argparse.Namespace) -> int:
    """Generates the grid of a run."""
    from lib_lora_train.cli.progress import counter
    from lib_lora_train.evaluation.cells import request_of
    from lib_lora_train.evaluation.comparison import compare as generate_grid
    from lib_lora_train.hosts.standalone import standalone_host
    from lib_lora_train.training.run_folder import RunFolder

    given = vars(values)
    options = CompareConfig(**{f.name: given[f.name] for f in fields_of(CompareConfig) if f.name in given})
    folder = RunFolder.open(run_path(values))
    output = path_argument(options.output) if options.output else folder.path / f"{folder.config.run.name}-grid.png"
    request = request_of(folder.config, options)
    show, bar = counter("generating")
    with bar:
        comparison = generate_grid(folder, standalone_host(folder.config.model), request, output, progress=show)
    print(f"{comparison.recommendation.reason}\n{comparison.recommended_file}\n{comparison.grid}\n{comparison.figures}")
    return 0


def demo(values: argparse.Namespace) -> int:
    """Trains the embedded checkpoint on a star."""
    from lib_lora_train.cli.demo import run_demo

    return run_demo(values.output)


def ui(values: argparse.Namespace) -> int:
    """Opens the tab without a WebUI."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("The page needs gradio, which is not installed. Run: pip install -r requirements/ui.txt")
    from lib_lora_train.embedded import CHECKPOINT
    from lib_lora_train.ui.standalone import serve

    checkpoint = values.checkpoint.resolve() if values.checkpoint else CHECKPOINT
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


def command_line_problems(config: TrainConfig) -> list[Problem]:
    """All problems of the settings, including those that the command line needs and a WebUI fills in."""
    problems = config.problems()
    if not config.model.checkpoint:
        problems.append(Problem("checkpoint", "Is missing. Add --checkpoint FILE."))
    if config.uses("dataset_folder") and not config.dataset.dataset_folder:
        problems.append(
            Problem("dataset_folder", "Is missing. Add --dataset-folder FOLDER, the folder of the images to train on.")
        )
    return problems


def _ended(finished: Path | None, run: Path) -> int:
    if finished is None:
        print(f"To resume: {PROGRAM} resume {run.name} --runs-dir {run.parent}")
        return EXIT_INTERRUPTED
    return 0
