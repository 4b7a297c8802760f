"""The command line. Its flags are made from the settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from lib_lora_train.config import (
    GROUP_TITLES,
    CompareConfig,
    Field,
    TrainConfig,
    expanded_path,
    fields_of,
    flat_from_toml,
    settings,
    unknown_setting,
)
from lib_lora_train.errors import Problem, UserError
from lib_lora_train.text_files import read_text

PROGRAM = "python -m lib_lora_train"


class Parser(argparse.ArgumentParser):
    """Raises errors as UserError, and accepts no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog=PROGRAM, description="Trains LoRA adapters for Stable Diffusion checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    train = commands.add_parser(
        "train", help="train an adapter", description="Trains an adapter from a folder of images."
    )
    add_run_settings(train)
    plan = commands.add_parser(
        "plan",
        help="show what train would do, without doing it",
        description="Shows what train would do, without doing it. Has the same flags as train.",
    )
    add_run_settings(plan)
    resume = commands.add_parser("resume", help="continue a run that was stopped or interrupted")
    add_run_folder(resume)
    inspect = commands.add_parser("inspect", help="show what an adapter file contains")
    inspect.add_argument("file", type=path_argument, help="a .safetensors LoRA")
    compare = commands.add_parser("compare", help="generate a grid of a run's epochs against strengths")
    add_run_folder(compare)
    add_fields(compare, fields_of(CompareConfig))
    demo = commands.add_parser(
        "demo", help="train the embedded checkpoint on a star; takes less than three minutes and no download"
    )
    demo.add_argument(
        "--output", type=path_argument, default=Path("demo-output"), help="folder for all files that are written"
    )
    ui = commands.add_parser(
        "ui", help="open the tab without a WebUI", description="Opens the tab as a web page, without a WebUI."
    )
    ui.add_argument("--checkpoint", type=path_argument, help="checkpoint file (default: the embedded one)")
    ui.add_argument("--port", type=int, default=7860, help="port of the page (default: 7860)")
    ui.add_argument(
        "--listen", action="store_true", help="allow other machines to open the page; images must then be uploaded"
    )
    ui.add_argument(
        "--output", type=path_argument, default=Path("lora-train-ui"), help="folder for all files that are written"
    )
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The values of the command line's arguments.

    Raises:
        UserError: for an argument that is unknown, with the nearest known one, or has a wrong value.
    """
    parser = build_parser()
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        asked = name.removeprefix("no-").replace("-", "_")
        if values.command not in ("train", "plan") and asked in {field.name for field in settings()}:
            raise UserError(f"--{name}: {_not_a_flag_of(values.command)}")
        known = [field.name for field in settings()] + [field.name for field in fields_of(CompareConfig)]
        raise UserError(
            f"{unknown[0]}: {unknown_setting(name, known).replace('_', '-')} See {PROGRAM} {values.command} --help"
        )
    return values


def _not_a_flag_of(command: str) -> str:
    """Why a setting of runs is not a flag of `command`, and what to do."""
    if command == "resume":
        return f"A run keeps the settings it was started with. To change one, start a new run: {PROGRAM} train"
    if command == "compare":
        return f"compare uses the settings that the run was started with. See {PROGRAM} compare --help"
    return f"{command} does not use the settings of a run. See {PROGRAM} {command} --help"


def add_run_settings(parser: argparse.ArgumentParser) -> None:
    """Adds --config and a flag for each setting of a run. The basic settings come first."""
    parser.usage = f"{parser.prog} [--config FILE] [--SETTING VALUE ...]"
    parser.add_argument("--config", type=path_argument, help="TOML file with settings; flags override it")
    add_fields(parser.add_argument_group("basic settings"), [field for field in settings() if field.info.basic])
    for group, title in GROUP_TITLES.items():
        others = [field for field in settings() if field.group == group and not field.info.basic]
        add_fields(parser.add_argument_group(title), others)


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose a run."""
    runs_dir = TrainConfig().run.runs_dir
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("--runs-dir", default=runs_dir, help=f"folder of the runs (default: {runs_dir})")


def add_fields(parser: Any, fields: Iterable[Field]) -> None:
    """Adds a flag for each field. A flag that is not used sets no value."""
    for field in fields:
        flag = f"--{field.name.replace('_', '-')}"
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": help_text(field)}
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif field.type in (int, float, str):
            parser.add_argument(flag, type=_reader(field.type), metavar=_placeholder(field), **options)
        else:
            item = float if field.type == list[float] else str
            parser.add_argument(flag, type=_reader(item), nargs="+", metavar=_placeholder(field), **options)


def help_text(field: Field) -> str:
    """The field's help, with unit, range, choices and default."""
    info = field.info
    text = info.help or info.label + "."
    if info.titles:
        text += f" One of: {', '.join(f'{choice} ({title})' for choice, title in zip(info.choices, info.titles, strict=True))}."
    elif info.choices:
        text += f" One of: {', '.join(map(str, info.choices))}."
    elif info.minimum is not None and info.maximum is not None:
        text += f" {info.minimum:.10g} to {info.maximum:.10g}{' ' + info.unit if info.unit else ''}."
    if info.methods:
        text += f" Only for {', '.join(info.methods)}."
    shown = field.default if field.default not in ("", []) else "none"
    return f"{text} (default: {shown})".replace("%", "%%")


def run_config(values: argparse.Namespace) -> TrainConfig:
    """The run's settings: the defaults, overridden by the file, overridden by the flags.

    Raises:
        UserError: when the file cannot be read or contains unknown settings.
    """
    flat: dict[str, Any] = {}
    if values.config:
        try:
            flat = flat_from_toml(read_text(values.config))
        except UserError as error:
            raise UserError(problems=[Problem(p.field or "--config", p.message) for p in error.problems]) from None
    names = {field.name for field in settings()}
    flat |= {name: value for name, value in vars(values).items() if name in names}
    return TrainConfig.from_flat(flat).with_expanded_paths()


def run_path(values: argparse.Namespace) -> Path:
    """The folder of the chosen run."""
    named = path_argument(values.run)
    return named if (named / "config.toml").is_file() else path_argument(values.runs_dir) / named


def path_argument(text: str) -> Path:
    """A path as it was entered, with ~ and environment variables replaced.

    Raises:
        UserError: for a user or a variable that does not exist.
    """
    return Path(expanded_path(text))


def _reader(kind: type) -> Callable[[str], Any]:
    words = {int: "a whole number", float: "a number", str: "a text"}[kind]

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}") from None

    return read


def _placeholder(field: Field) -> str:
    return (field.info.unit or {int: "N", float: "X"}.get(field.type, "TEXT")).upper().replace(" ", "-")
