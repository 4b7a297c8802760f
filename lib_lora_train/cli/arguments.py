"""The command line, made from the settings' table."""

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
    fields_of,
    flat_from_toml,
    settings,
    unknown_setting,
)
from lib_lora_train.errors import UserError

PROGRAM = "python -m lib_lora_train"


class Parser(argparse.ArgumentParser):
    """Speaks in one plain sentence, and takes no flag for another that begins alike."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog=PROGRAM, description="Trains LoRA adapters for Stable Diffusion checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    train = commands.add_parser(
        "train", help="train an adapter", description="Trains an adapter from a folder of images."
    )
    add_run_settings(train)
    plan = commands.add_parser(
        "plan", help="say what train would do, and change nothing", description="Takes the same flags as train."
    )
    add_run_settings(plan)
    resume = commands.add_parser("resume", help="go on with a run that was stopped or killed")
    add_run_folder(resume)
    inspect = commands.add_parser("inspect", help="what an adapter file holds")
    inspect.add_argument("file", type=Path, help="a .safetensors LoRA")
    compare = commands.add_parser("compare", help="draw the grid of a run's epochs against strengths")
    add_run_folder(compare)
    add_fields(compare, fields_of(CompareConfig))
    demo = commands.add_parser(
        "demo", help="teach the embedded checkpoint a star: no download, less than three minutes"
    )
    demo.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for all that is written")
    ui = commands.add_parser(
        "ui", help="open the tab as a page of its own", description="Opens the tab without a WebUI."
    )
    ui.add_argument("--checkpoint", type=Path, help="a Stable Diffusion 1.x file (default: the embedded miniature)")
    ui.add_argument("--port", type=int, default=7860, help="of the page (default: 7860)")
    ui.add_argument(
        "--listen", action="store_true", help="let other machines open it; then only dropped images can be used"
    )
    ui.add_argument("--output", type=Path, default=Path("lora-train-ui"), help="folder for all that is written")
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's values.

    Raises:
        UserError: for what it does not know, with the nearest thing that it does.
    """
    parser = build_parser()
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        known = [field.name for field in settings()] + [field.name for field in fields_of(CompareConfig)]
        raise UserError(
            f"{unknown[0]}: {unknown_setting(name, known).replace('_', '-')} See {PROGRAM} {values.command} --help"
        )
    return values


def add_run_settings(parser: argparse.ArgumentParser) -> None:
    """--config and a flag for every setting of a run; those that most people set come first."""
    parser.usage = f"{parser.prog} [--config FILE] [--SETTING VALUE ...]"
    parser.add_argument("--config", type=Path, help="a .toml file of settings; flags win over it")
    add_fields(parser.add_argument_group("what most people set"), [field for field in settings() if field.info.basic])
    for group, title in GROUP_TITLES.items():
        others = [field for field in settings() if field.group == group and not field.info.basic]
        add_fields(parser.add_argument_group(title), others)


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """The run to work on, by its name or folder."""
    runs_dir = TrainConfig().run.runs_dir
    parser.add_argument("run", help="a run's name, or its folder")
    parser.add_argument("--runs-dir", default=runs_dir, help=f"where runs are (default: {runs_dir})")


def add_fields(parser: Any, fields: Iterable[Field]) -> None:
    """A flag for each field; a flag that is not given leaves no value behind."""
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
    """The table's help, with unit, range and default."""
    info = field.info
    text = info.help or info.label + "."
    if info.titles:
        text += f" One of: {', '.join(f'{choice} ({title})' for choice, title in zip(info.choices, info.titles, strict=True))}."
    elif info.choices:
        text += f" One of: {', '.join(map(str, info.choices))}."
    elif info.minimum is not None and info.maximum is not None:
        text += f" {info.minimum:.10g} to {info.maximum:.10g}{' ' + info.unit if info.unit else ''}."
    if info.methods:
        text += f" Only in mode {' or '.join(info.methods)}."
    shown = field.default if field.default not in ("", []) else "none"
    return f"{text} (default: {shown})".replace("%", "%%")


def run_config(values: argparse.Namespace) -> TrainConfig:
    """The run's settings: defaults, then the file, then the flags.

    Raises:
        UserError: when the file cannot be read, or holds what is no setting.
    """
    flat: dict[str, Any] = {}
    if values.config:
        try:
            flat = flat_from_toml(values.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config: {values.config} cannot be read ({error}). Check the path.") from None
    names = {field.name for field in settings()}
    flat |= {name: value for name, value in vars(values).items() if name in names}
    return TrainConfig.from_flat(flat)


def run_path(values: argparse.Namespace) -> Path:
    """The folder of the run that was named."""
    named = Path(values.run)
    return named if (named / "config.toml").is_file() else Path(values.runs_dir) / named


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
