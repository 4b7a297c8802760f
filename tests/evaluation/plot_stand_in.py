"""A stand-in for the WebUI's X/Y/Z plot: its axes, the order of its calls, and the copies of `p` for cells."""

from __future__ import annotations

import csv
from collections import namedtuple
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])


class AxisOption:
    """With the arguments of the WebUI's constructor."""

    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):  # noqa: A002
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value or _label
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


class OtherAxisOption(AxisOption):
    """An axis of only one of txt2img and img2img."""


@dataclass
class Processing:
    """The part of the WebUI's processing object that the axes use."""

    prompt: str | list[str]
    negative_prompt: str = ""
    hr_prompt: str | list[str] = ""
    all_prompts: list[str] | None = None
    styles: list[str] = field(default_factory=list)
    seed: int = 1


def _label(p: Any, option: AxisOption, value: Any) -> str:
    return f"{option.label}: {value}"


def _search_and_replace(p: Processing, value: str, values: list[str]) -> None:
    if values[0] not in p.prompt:
        raise RuntimeError(f"Prompt S/R did not find {values[0]} in prompt or negative prompt.")
    p.prompt = p.prompt.replace(values[0], value)


def _seed(p: Processing, value: int, values: list[int]) -> None:
    p.seed = value


def webuis_axes() -> list[AxisOption]:
    return [
        AxisOption("Nothing", str, lambda p, value, values: None),
        AxisOption("Seed", int, _seed),
        AxisOption("Prompt S/R", str, _search_and_replace),
        AxisOption("Styles", str, lambda p, value, values: p.styles.extend(value.split(",")), choices=list),
        OtherAxisOption("Sampler", str, lambda p, value, values: None),
    ]


class Plot:
    """A WebUI with the script: the modules to import, and the loop over the cells."""

    def __init__(self) -> None:
        self.state = SimpleNamespace()
        self.styles: dict[str, SimpleNamespace] = {}
        self.scripts = ModuleType("modules.scripts")
        self.shared = ModuleType("modules.shared")
        self.shared.state = self.state
        self.shared.prompt_styles = SimpleNamespace(styles=self.styles)
        self.cells: list[Processing] = []
        self.load_scripts()

    def load_scripts(self) -> None:
        """Makes a new module of the script, as at the start and at each reload of the interface."""
        self.module = SimpleNamespace(AxisOption=AxisOption, axis_options=webuis_axes())
        self.scripts.scripts_data = [
            SimpleNamespace(script_class=type("Script", (), {"__module__": name}), module=module)
            for name, module in (("other.py", SimpleNamespace()), ("xyz_grid.py", self.module))
        ]

    def modules(self) -> dict[str, ModuleType]:
        package = ModuleType("modules")
        package.scripts, package.shared = self.scripts, self.shared
        return {"modules": package, "modules.scripts": self.scripts, "modules.shared": self.shared}

    def axis(self, label: str) -> AxisOption:
        (found,) = [option for option in self.module.axis_options if option.label == label]
        return found

    def run(self, p: Processing, *axes: tuple[str, Any], text: bool = False) -> list[Processing]:
        """Returns the cells, X fastest. `text`: values are typed, as with "Use text inputs instead of dropdowns"."""
        axes = (*axes, *[("Nothing", "")] * (3 - len(axes)))
        infos = [self._read(p, self.axis(label), values, text) for label, values in axes]
        self.state.xyz_plot_x, self.state.xyz_plot_y, self.state.xyz_plot_z = infos
        self.labels = [[info.axis.format_value(p, info.axis, value) for value in info.values] for info in infos]
        self.cells = []
        for z in infos[2].values:
            for y in infos[1].values:
                for x in infos[0].values:
                    self.cells.append(self._cell(p, list(zip(infos, (x, y, z), strict=True))))
        return self.cells

    @staticmethod
    def _read(p: Processing, option: AxisOption, values: Any, text: bool) -> AxisInfo:
        if option.label == "Nothing":
            return AxisInfo(option, [0])
        if option.choices is None or text:
            line = values if isinstance(values, str) else ",".join(map(str, values))
            read: Callable = option.prepare or (lambda line: [part.strip() for part in next(csv.reader([line]))])
            values = read(line)
        values = [option.type(value) for value in values]
        if option.confirm:
            option.confirm(p, values)
        return AxisInfo(option, values)

    @staticmethod
    def _cell(p: Processing, axes: list[tuple[AxisInfo, Any]]) -> Processing:
        cell = copy(p)
        cell.styles = cell.styles[:]
        for info, value in axes:
            info.axis.apply(cell, value, info.values)
        return cell
