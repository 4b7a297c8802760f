"""The axes Run, Epoch and Strength of the WebUI's X/Y/Z plot.

An axis works on the WebUI's processing object `p`: each cell gets a shallow copy of it, on which the X, the Y and the Z
axis are applied in this order. So a cell's choice lives on that copy, as an object that is replaced and never changed,
and the prompts of `p` itself are never touched.

A grid that cannot be drawn is refused before its first cell. `confirm` sees the values of one axis alone, and before
the axes that follow are read; whether they go together shows when all are known. The WebUI makes the labels after the
last `confirm` and before the first cell, so the first label rehearses all cells, with the same functions that draw
them. The WebUI has put the three axes in `shared.state` by then.
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
from lib_lora_train.evaluation.tag_choice import Choice, our_tags, targets, with_choice

RUN, EPOCH, STRENGTH = (f"[LoRA Train] {name}" for name in ("Run", "Epoch", "Strength"))
OURS = (RUN, EPOCH, STRENGTH)
PROMPT_AXES = (*OURS, "Prompt S/R", "Prompt order", "Styles")
"""Those that a rehearsal applies: what becomes of the tag depends on no other."""
CHECKPOINT = "Checkpoint name"
"""The WebUI's axis that loads another checkpoint for a cell."""
VERSIONS = {"SD1": "Stable Diffusion 1.x", "SD2": "Stable Diffusion 2.x", "SDXL": "Stable Diffusion XL"}
"""As the WebUI's Lora extension calls them (network.py, SdVersion)."""

LoraDir = Callable[[], Path]


@dataclass(frozen=True)
class PlotGrid:
    """What is known of a grid before it starts."""

    axes: tuple[Any, ...]
    """The WebUI's (axis, values) for X, Y and Z; new objects for each grid, by which it is told from the last one."""
    runs: SavedRuns
    rivals: frozenset[str]
    """The runs on the Run axis."""


@dataclass(frozen=True)
class PlotCell:
    """What the axes have chosen for one cell so far."""

    choice: Choice = Choice()
    targets: frozenset[str] = frozenset()
    problem: str = ""
    """Why the tag could not be set yet. An axis that follows may give what is missing."""


def register(lora_dir: LoraDir) -> bool:
    """Adds the axes to the WebUI's X/Y/Z plot; whether there is one. Call it before the WebUI builds its interface.

    The plot's list of axes is made anew when the interface is reloaded. Axes that are in it already are replaced.
    """
    module = _plot_module()
    if module is None:
        return False
    others = [option for option in module.axis_options if option.label not in OURS]
    module.axis_options[:] = [*others, *_options(module.AxisOption, lora_dir)]
    return True


def send_values(run: RunAdapters) -> dict[str, dict[str, str | list[str]]]:
    """What the plot's X, Y and Z are set to for the epochs of `run` against strengths."""
    return {
        "x": {"label": EPOCH, "values": [str(epoch) for epoch in run.epochs]},
        "y": {"label": STRENGTH, "values": list(axis_values.STRENGTHS)},
        "z": {"label": RUN, "values": [run.name]},
    }


def _plot_module() -> Any | None:
    """The WebUI runs its scripts without entering them in sys.modules; it keeps a list of what they define."""
    from modules import scripts

    return next((x.module for x in scripts.scripts_data if x.script_class.__module__ == "xyz_grid.py"), None)


def _options(option: Callable[..., Any], lora_dir: LoraDir) -> list[Any]:
    def runs() -> SavedRuns:
        return SavedRuns.find(lora_dir())

    def axis(label: str, field: str, cost: float, **facts: Any) -> Any:
        short = label.rpartition(" ")[2]
        return option(
            label,
            apply=lambda p, value, values: _apply(_grid(p, lora_dir), p, **{field: value}),
            format_value=lambda p, axis, value: _label(_grid(p, lora_dir), short, value),
            cost=cost,  # a dear axis is changed less often: another file is read from the disk, another strength is not
            **facts,
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
    """The grid that `p` is drawn in. Asked for the first time it is rehearsed, and refused when a cell cannot be."""
    axes = _axes_now()
    known = getattr(p, "lora_train_grid", None)
    if known is not None and all(a is b for a, b in zip(known.axes, axes, strict=True)):
        return known
    runs = SavedRuns.find(lora_dir())
    rivals = frozenset(runs.run(name).name for axis in axes if axis and axis.axis.label == RUN for name in axis.values)
    grid = PlotGrid(axes, runs, rivals)
    used = _rehearse(grid, p)
    _make_known(used)
    if not any(axis and axis.axis.label == CHECKPOINT for axis in axes):
        _refuse_other_families(used)
    p.lora_train_grid = grid
    return grid


def _axes_now() -> tuple[Any, ...]:
    from modules import shared

    return tuple(getattr(shared.state, f"xyz_plot_{axis}", None) for axis in "xyz")


def _rehearse(grid: PlotGrid, p: Any) -> list[AdapterOfRun]:
    """Applies the axes as for every cell, to the prompts only. Returns the adapters that the cells will use.

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
        _refuse_styles(grid.runs, probe, cell.targets)
        prompts = [*_texts(probe.prompt), *_texts(getattr(probe, "hr_prompt", ""))]
        used |= {adapter.stem: adapter for prompt in prompts for _, adapter in our_tags(prompt, grid.runs)}
    return list(used.values())


def _refuse_styles(runs: SavedRuns, p: Any, targets: frozenset[str]) -> None:
    """A style is added to the prompt after the axes, so a tag in it would be a second one."""
    from modules import shared

    for name in p.styles:
        style = shared.prompt_styles.styles.get(name)
        for tag, adapter in our_tags(getattr(style, "prompt", None) or "", runs):
            if adapter.run in targets:
                raise UserError(
                    f"The style {name} holds a tag of its own, <lora:{tag.name}>, so there would be two in a cell. "
                    "Take it out of the style, or leave the style out."
                )


def _apply(grid: PlotGrid, p: Any, **chosen: Any) -> None:
    """Adds what an axis has chosen to the cell, and sets the tag in its prompts."""
    cell = _cell(p)
    if "run" in chosen:
        chosen["run"] = grid.runs.run(chosen["run"]).name
    choice = replace(cell.choice, **chosen)
    prompts = _texts(p.prompt)
    ours = cell.targets.union(*(targets(prompt, grid.runs, grid.rivals) for prompt in prompts))
    change = partial(with_choice, choice=choice, runs=grid.runs, targets=ours)
    try:
        p.prompt = _each(change, p.prompt)
    except UserError as error:
        p.lora_train_cell = PlotCell(choice, ours, str(error))
        return
    p.lora_train_cell = PlotCell(choice, ours)
    if getattr(p, "all_prompts", None):
        p.all_prompts = _each(change, p.all_prompts)
    if getattr(p, "hr_prompt", None):
        p.hr_prompt = _each(lambda prompt: _changed_where_tagged(change, prompt, grid.runs, ours), p.hr_prompt)


def _cell(p: Any) -> PlotCell:
    return getattr(p, "lora_train_cell", None) or PlotCell()


def _changed_where_tagged(change: Callable[[str], str], prompt: str, runs: SavedRuns, targets: Iterable[str]) -> str:
    """The second pass has a prompt of its own, and does without the adapter where that names none."""
    return change(prompt) if any(adapter.run in targets for _, adapter in our_tags(prompt, runs)) else prompt


def _texts(prompt: str | list[str] | None) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt or [])


def _each(change: Callable[[str], str], prompt: str | list[str]) -> str | list[str]:
    return change(prompt) if isinstance(prompt, str) else [change(text) for text in prompt]


def _make_known(adapters: Iterable[AdapterOfRun]) -> None:
    """Sees to it that the WebUI loads exactly these files for their tags, as it would silently draw without.

    Raises:
        UserError: when it does not.
    """
    networks = sys.modules.get("networks")
    if networks is None:
        raise UserError(
            "The WebUI's own Lora extension is off, so tags have no effect. Switch it on in the tab Extensions."
        )
    if any(_meant_by(networks, adapter.stem) != _real(adapter.path) for adapter in adapters):
        networks.list_available_networks()
    for adapter in adapters:
        meant = _meant_by(networks, adapter.stem)
        if meant != _real(adapter.path):
            other = f"takes {meant} for it" if meant else "does not find the file"
            raise UserError(
                f"<lora:{adapter.stem}:1> should be {adapter.path}, but the WebUI {other}. "
                "Rename one of two files with the same name, or check the LoRA folder."
            )


def _refuse_other_families(adapters: Iterable[AdapterOfRun]) -> None:
    """An adapter of another family changes nothing, and the WebUI does not say so.

    Raises:
        UserError: when there is one; says what it is for, and what is loaded.
    """
    networks, loaded = sys.modules["networks"], _loaded_version()
    for adapter in adapters:
        found = networks.available_networks.get(adapter.stem)
        version = getattr(getattr(found, "sd_version", None), "name", "")
        if loaded and version in VERSIONS and version != loaded:
            raise UserError(
                f"{adapter.stem} is made for {VERSIONS[version]}, and a {VERSIONS[loaded]} checkpoint is loaded. "
                f"Choose a run that was trained on {VERSIONS[loaded]}, or load a checkpoint that the adapter is made for."
            )


def _loaded_version() -> str:
    """What the WebUI calls the kind of the loaded checkpoint; "" where it does not say."""
    from modules import shared

    model = getattr(shared, "sd_model", None)
    return next((version for version in VERSIONS if getattr(model, f"is_{version.lower()}", False)), "")


def _meant_by(networks: Any, name: str) -> str | None:
    """The file that the WebUI takes for <lora:NAME:1>. Names of several files go by the file's name, others by the alias."""
    aliases: Mapping[str, Any] = networks.available_network_aliases
    ambiguous = name.lower() in networks.forbidden_network_aliases
    found = networks.available_networks.get(name) if ambiguous else aliases.get(name)
    return _real(found.filename) if found else None


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
