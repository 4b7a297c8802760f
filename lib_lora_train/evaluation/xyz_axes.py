"""The axes Run, Epoch and Strength of the WebUI's X/Y/Z plot.

An axis changes the WebUI's processing object `p`: each cell gets a shallow copy of it, to which the X, Y and Z axes are
applied in this order. A cell's choice is stored on that copy, as an immutable object, so `p` itself is not changed.

An invalid grid is refused before its first cell. `confirm` gets the values of one axis only, before the next axes are
read, so it cannot check whether they are valid together. The WebUI makes the labels after the last `confirm` and before
the first cell, when the three axes are in `shared.state`. So the first label applies the axes for all cells as a trial.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.evaluation import axis_values
from lib_lora_train.evaluation.lora_tag import strength_text
from lib_lora_train.evaluation.runs import AdapterOfRun, RunAdapters, SavedRuns
from lib_lora_train.evaluation.tag_choice import Choice, our_tags, replaced_runs, with_choice

RUN, EPOCH, STRENGTH = (f"[LoRA Train] {name}" for name in ("Run", "Epoch", "Strength"))
OURS = (RUN, EPOCH, STRENGTH)
PROMPT_AXES = (*OURS, "Prompt S/R", "Prompt order", "Styles")
"""The axes that the trial applies: no others can change the tag."""
CHECKPOINT = "Checkpoint name"
"""The WebUI's axis that loads another checkpoint for each cell."""
VERSIONS = {"SD1": "Stable Diffusion 1.x", "SD2": "Stable Diffusion 2.x", "SDXL": "Stable Diffusion XL"}
"""Named as in the WebUI's Lora extension (network.py, SdVersion)."""

LoraDir = Callable[[], Path]


@dataclass(frozen=True)
class PlotGrid:
    """What is known about a grid before it starts.

    Attributes:
        axes: the WebUI's (axis, values) for X, Y and Z. They are new objects for each grid, which tells grids apart.
        alternatives: the runs on the Run axis.
    """

    axes: tuple[Any, ...]
    runs: SavedRuns
    alternatives: frozenset[str]


@dataclass(frozen=True)
class PlotCell:
    """What the axes have chosen for one cell so far.

    Attributes:
        replaced: the runs whose tags are replaced.
        problem: why the tag could not be set yet; a later axis may solve it.
    """

    choice: Choice = Choice()
    replaced: frozenset[str] = frozenset()
    problem: str = ""


def register(lora_dir: LoraDir) -> bool:
    """Adds the axes to the WebUI's X/Y/Z plot, before the WebUI builds its interface. Returns whether there is a plot.

    The WebUI makes a new list of axes when the interface is reloaded. Axes that are already in it are replaced.
    """
    module = _plot_module()
    if module is None:
        return False
    others = [option for option in module.axis_options if option.label not in OURS]
    module.axis_options[:] = [*others, *_options(module.AxisOption, lora_dir)]
    return True


def send_values(run: RunAdapters) -> dict[str, dict[str, str | list[str]]]:
    """The plot's X, Y and Z settings for a grid of the epochs of `run` and strengths."""
    return {
        "x": {"label": EPOCH, "values": [str(epoch) for epoch in run.epochs]},
        "y": {"label": STRENGTH, "values": list(axis_values.STRENGTHS)},
        "z": {"label": RUN, "values": [run.name]},
    }


def _plot_module() -> Any | None:
    """The script's module, or None. The WebUI does not add its scripts to sys.modules, but has a list of them."""
    from modules import scripts

    return next((x.module for x in scripts.scripts_data if x.script_class.__module__ == "xyz_grid.py"), None)


def _options(option: Callable[..., Any], lora_dir: LoraDir) -> list[Any]:
    def runs() -> SavedRuns:
        return SavedRuns.find(lora_dir())

    def axis(label: str, field: str, cost: float, **options: Any) -> Any:
        short = label.rpartition(" ")[2]
        return option(
            label,
            apply=lambda p, value, values: _apply(_grid(p, lora_dir), p, **{field: value}),
            format_value=lambda p, axis, value: _label(_grid(p, lora_dir), short, value),
            cost=cost,  # the WebUI changes costly axes less often; another epoch is another file
            **options,
        )

    return [
        axis(
            RUN,
            "run",
            0.4,
            type=str,
            prepare=axis_values.names,
            choices=lambda: runs().names,
            confirm=lambda p, values: _confirm_runs(runs(), values),
        ),
        axis(
            EPOCH,
            "epoch",
            0.3,
            type=axis_values.epoch_value,
            prepare=axis_values.epochs,
            choices=lambda: [str(epoch) for epoch in runs().epochs],
            confirm=partial(_confirm_any, "Epoch"),
        ),
        axis(
            STRENGTH,
            "strength",
            0.2,
            type=axis_values.strength_value,
            prepare=axis_values.strengths,
            choices=lambda: list(axis_values.STRENGTHS),
            confirm=partial(_confirm_any, "Strength"),
        ),
    ]


def _confirm_runs(runs: SavedRuns, values: list[str]) -> None:
    _confirm_any("Run", None, values)
    for name in values:
        runs.run(name)


def _confirm_any(axis: str, p: Any, values: list[Any]) -> None:
    if not values:
        raise UserError(f"The axis [LoRA Train] {axis} has no value. Choose at least one, or set the axis to Nothing.")


def _label(grid: PlotGrid, axis: str, value: Any) -> str:
    return f"{axis}: {strength_text(value) if isinstance(value, float) else value}"


def _grid(p: Any, lora_dir: LoraDir) -> PlotGrid:
    """The grid that `p` belongs to. It is checked the first time.

    Raises:
        UserError: when a cell cannot be generated.
    """
    axes = _current_axes()
    known = getattr(p, "lora_train_grid", None)
    if known is not None and all(a is b for a, b in zip(known.axes, axes, strict=True)):
        return known
    runs = SavedRuns.find(lora_dir())
    alternatives = frozenset(
        runs.run(name).name for axis in axes if axis and axis.axis.label == RUN for name in axis.values
    )
    grid = PlotGrid(axes, runs, alternatives)
    used = _try_all_cells(grid, p)
    _ensure_listed(used)
    if not any(axis and axis.axis.label == CHECKPOINT for axis in axes):
        _refuse_other_families(used)
    p.lora_train_grid = grid
    return grid


def _current_axes() -> tuple[Any, ...]:
    from modules import shared

    return tuple(getattr(shared.state, f"xyz_plot_{axis}", None) for axis in "xyz")


def _try_all_cells(grid: PlotGrid, p: Any) -> list[AdapterOfRun]:
    """Applies the axes to the prompts of every cell. Returns the adapters that the cells will use.

    Raises:
        UserError: when a cell's tag cannot be set.
    """
    axes = [axis for axis in grid.axes if axis and axis.axis.label in PROMPT_AXES]
    used: dict[str, AdapterOfRun] = {}
    for values in product(*(axis.values for axis in axes)):
        probe = copy(p)
        probe.styles = list(p.styles)
        probe.lora_train_grid = grid
        for axis, value in zip(axes, values, strict=True):
            axis.axis.apply(probe, value, axis.values)
        cell = _cell(probe)
        if cell.problem:
            raise UserError(cell.problem)
        _refuse_styles(grid.runs, probe, cell.replaced)
        prompts = [*_texts(probe.prompt), *_texts(getattr(probe, "hr_prompt", ""))]
        used |= {adapter.stem: adapter for prompt in prompts for _, adapter in our_tags(prompt, grid.runs)}
    return list(used.values())


def _refuse_styles(runs: SavedRuns, p: Any, replaced: frozenset[str]) -> None:
    """A style is added to the prompt after the axes, so a tag in it would be a second one.

    Raises:
        UserError: when a style has a tag of one of the runs in `replaced`.
    """
    from modules import shared

    for name in p.styles:
        style = shared.prompt_styles.styles.get(name)
        for tag, adapter in our_tags(getattr(style, "prompt", None) or "", runs):
            if adapter.run in replaced:
                raise UserError(
                    f"The style {name} contains the tag <lora:{tag.name}>, so a cell would have two tags. "
                    "Remove the tag from the style, or do not use the style."
                )


def _apply(grid: PlotGrid, p: Any, **chosen: Any) -> None:
    """Adds an axis's value to the cell's choice, and sets the tag in its prompts."""
    cell = _cell(p)
    if "run" in chosen:
        chosen["run"] = grid.runs.run(chosen["run"]).name
    choice = replace(cell.choice, **chosen)
    prompts = _texts(p.prompt)
    replaced = cell.replaced.union(*(replaced_runs(prompt, grid.runs, grid.alternatives) for prompt in prompts))
    set_tag = partial(with_choice, choice=choice, runs=grid.runs, replaced=replaced)
    try:
        p.prompt = _each(set_tag, p.prompt)
    except UserError as error:
        p.lora_train_cell = PlotCell(choice, replaced, str(error))
        return
    p.lora_train_cell = PlotCell(choice, replaced)
    if getattr(p, "all_prompts", None):
        p.all_prompts = _each(set_tag, p.all_prompts)
    if getattr(p, "hr_prompt", None):
        p.hr_prompt = _each(lambda prompt: _set_if_tagged(set_tag, prompt, grid.runs, replaced), p.hr_prompt)


def _cell(p: Any) -> PlotCell:
    return getattr(p, "lora_train_cell", None) or PlotCell()


def _set_if_tagged(set_tag: Callable[[str], str], prompt: str, runs: SavedRuns, replaced: Iterable[str]) -> str:
    """The hires pass has its own prompt; without a tag in it, it does not use the adapter."""
    return set_tag(prompt) if any(adapter.run in replaced for _, adapter in our_tags(prompt, runs)) else prompt


def _texts(prompt: str | list[str] | None) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt or [])


def _each(convert: Callable[[str], str], prompt: str | list[str]) -> str | list[str]:
    return convert(prompt) if isinstance(prompt, str) else [convert(text) for text in prompt]


def _ensure_listed(adapters: Iterable[AdapterOfRun]) -> None:
    """Ensures that the WebUI's list has these files for their tags; it ignores unknown tags silently.

    Raises:
        UserError: when it has another file for one of them, or none.
    """
    networks = sys.modules.get("networks")
    if networks is None:
        raise UserError("The WebUI's Lora extension is off, so tags have no effect. Enable it in the Extensions tab.")
    if any(_listed_file(networks, adapter.stem) != _real(adapter.path) for adapter in adapters):
        networks.list_available_networks()
    for adapter in adapters:
        listed = _listed_file(networks, adapter.stem)
        if listed != _real(adapter.path):
            other = f"uses {listed}" if listed else "does not find it"
            raise UserError(
                f"The file of <lora:{adapter.stem}:1> is {adapter.path}, but the WebUI {other}. "
                "Rename one of two files with the same name, or check the LoRA folder."
            )


def _refuse_other_families(adapters: Iterable[AdapterOfRun]) -> None:
    """An adapter for another kind of model has no effect, and the WebUI does not report it.

    Raises:
        UserError: when an adapter is not for the loaded checkpoint's kind.
    """
    networks, loaded = sys.modules["networks"], _loaded_version()
    for adapter in adapters:
        found = networks.available_networks.get(adapter.stem)
        version = getattr(getattr(found, "sd_version", None), "name", "")
        if loaded and version in VERSIONS and version != loaded:
            raise UserError(
                f"{adapter.stem} is for {VERSIONS[version]}, but a {VERSIONS[loaded]} checkpoint is loaded. "
                f"Choose a run that was trained on {VERSIONS[loaded]}, or load another checkpoint."
            )


def _loaded_version() -> str:
    """The kind of the loaded checkpoint, a key of `VERSIONS`; "" if the WebUI does not know it."""
    from modules import shared

    model = getattr(shared, "sd_model", None)
    return next((version for version in VERSIONS if getattr(model, f"is_{version.lower()}", False)), "")


def _listed_file(networks: Any, name: str) -> str | None:
    """The WebUI's file for <lora:NAME:1>. It looks ambiguous names up by file name, others by alias."""
    aliases: Mapping[str, Any] = networks.available_network_aliases
    ambiguous = name.lower() in networks.forbidden_network_aliases
    found = networks.available_networks.get(name) if ambiguous else aliases.get(name)
    return _real(found.filename) if found else None


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
