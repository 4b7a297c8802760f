"""The comparison of epochs: the handlers that generate the grid and fill in the X/Y/Z plot."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from lib_lora_train.config import CompareConfig
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.cells import request_of
from lib_lora_train.evaluation.comparison import Comparison
from lib_lora_train.evaluation.runs import SavedRuns
from lib_lora_train.service import TrainingService
from lib_lora_train.training.samples import txt2img_request
from lib_lora_train.ui.background import BackgroundTask, start_in_background
from lib_lora_train.ui.controls import lines
from lib_lora_train.ui.html import message_html
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.run_view import lora_tag
from lib_lora_train.ui.updates import Updates, message

EXAMPLE = "Enter numbers such as 0, 0.5, 1."


@dataclass
class ComparisonPanel:
    """Shared by all pages. `comparing` is the last comparison; it continues when the page is closed."""

    service: TrainingService
    comparing: BackgroundTask[Comparison] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a grid is being generated."""
        return self.comparing is not None and not self.comparing.is_done

    def generate(self, name: str | None, strengths: str | None, prompts: str | None, page: PageState) -> Updates:
        """Starts generating the grid of a run."""
        selected = _require_run(name)
        if self.is_busy:
            raise UserError("A grid is already being generated. Wait until it is done.")
        options = CompareConfig(strengths=numbers(strengths), prompts=lines(prompts))
        self.service.run(selected)

        def work(task: BackgroundTask[Comparison]) -> Comparison:
            return self.service.compare(selected, options, task.progress)

        page.run.suggested.pop(Part.COMPARISON_RUN, None)  # from now on it is the user's own selection
        self.comparing = start_in_background(f"Generating the grid of {selected}", work)
        return message("")

    def poll(self, page: PageState) -> Updates:
        """The progress of the comparison; at its end the grid."""
        task = self.comparing
        if task is None:
            return {}
        hint = "\nTo cancel, press Interrupt in txt2img." if self.service.environment.txt2img and self.is_busy else ""
        text = message_html(task.text + hint, error=bool(task.error))
        updates: Updates = {Part.GRID_PROGRESS: {"value": text, "visible": bool(task.text)}}
        if task.is_done and page.shown.grid is not task:
            page.shown.grid = task
            updates |= _result(task.result)
        return page.changes(updates)

    def send_to_plot(self, name: str | None, prompts: str | None) -> Updates:
        """The values for the X/Y/Z plot and for txt2img, as JSON; javascript/lora_train.js fills them in.

        Raises:
            UserError: when the LoRA folder has no such run.
        """
        from lib_lora_train.evaluation.xyz_axes import send_values

        run = SavedRuns.find(self.service.environment.lora_dir).run(_require_run(name))
        values = {**send_values(run), "txt2img": self._txt2img_values(run.name, lines(prompts))}
        updates: Updates = {Part.PLOT_VALUES: {"value": json.dumps(values)}}
        return updates | message("The X/Y/Z plot in txt2img is filled in.")

    def _txt2img_values(self, name: str, prompts: list[str]) -> dict[str, str]:
        """The first image of the comparison as txt2img's own settings; none for a run of which only the files are left."""
        from lib_lora_train.hosts.webui.txt2img import SAMPLERS

        try:
            config = self.service.run(name).folder.config
            comparison = request_of(config, CompareConfig(prompts=prompts))
        except UserError:
            return {}
        request = txt2img_request(config, comparison.prompts[0], comparison.seeds[0])
        sampler, scheduler = SAMPLERS[request.sampler]
        return {
            "prompt": request.prompt,
            "neg_prompt": request.negative,
            "width": str(request.width),
            "height": str(request.height),
            "cfg_scale": f"{request.guidance:g}",
            "seed": str(request.seed),
            "steps": str(request.steps),
            "sampling": sampler,
            "scheduler": scheduler,
        }


def _result(comparison: Comparison | None) -> Updates:
    if comparison is None:
        return {Part.GRID_BOX: {"visible": False}}
    return {
        Part.GRID_BOX: {"visible": True},
        Part.GRID: {"value": [(str(comparison.grid), "")]},
        Part.RECOMMENDATION: {"value": message_html(comparison.recommendation.reason)},
        Part.TAG: {"value": lora_tag(comparison.recommended_file.stem)},
    }


def _require_run(name: str | None) -> str:
    if not name:
        raise UserError("Select a run first. If there is none, train one.")
    return name


def numbers(text: str | None) -> list[float]:
    """The different numbers in a text, separated by commas, semicolons or spaces.

    Raises:
        UserError: when there is none, or one that is not a finite number.
    """
    parts = [part for part in re.split(r"[\s,;]+", text or "") if part]
    if not parts:
        raise UserError(f"Strengths must not be empty. {EXAMPLE}")
    found: list[float] = []
    for part in parts:
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"Strengths: {part!r} is not a number. {EXAMPLE}")
        found.append(number)
    return list(dict.fromkeys(found))
