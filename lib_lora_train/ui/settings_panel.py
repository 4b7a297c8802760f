"""The settings and the training plan: the handlers of the tab's left column."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_lora_train.config import GROUP_TITLES, Field, Problem
from lib_lora_train.errors import UserError
from lib_lora_train.queue import State
from lib_lora_train.service import TrainingService
from lib_lora_train.training.plan import Plan
from lib_lora_train.ui.controls import basic_settings, info_text, method_of, offered_settings, read_controls
from lib_lora_train.ui.html import message_html
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part, control, control_box, group_box, problems_of
from lib_lora_train.ui.plan_view import is_missing, no_plan_html, plan_html
from lib_lora_train.ui.updates import Updates, message


@dataclass
class SettingsPanel:
    """Shared by all pages. `contents` is what the controls of `fields` hold, in that order."""

    service: TrainingService
    fields: list[Field] = field(init=False)
    _measuring: threading.Lock = field(default_factory=threading.Lock)
    _latest: int = 0
    """Counts plans to measure and runs that start: only the latest plan is measured."""

    def __post_init__(self) -> None:
        self.fields = offered_settings(self.service.environment.shares_checkpoint)

    @property
    def names(self) -> list[str]:
        """All settings that the tab offers."""
        return [item.name for item in self.fields]

    @property
    def basic(self) -> set[str]:
        """Settings that are visible before a group is opened."""
        return {item.name for item in basic_settings(self.fields)}

    def further_settings(self, group: str) -> list[Field]:
        """A group's settings that are visible only when it is opened."""
        return [item for item in self.fields if item.group == group and item.name not in self.basic]

    # Training method

    def show_method(self, title: str | None) -> Updates:
        """Shows the settings of a training method, with its own help texts, and hides the others."""
        method = method_of([item for item in self.fields if item.name == "training_method"], [title])
        used = {item.name for item in self.fields if item.info.used_by(method)}
        updates: Updates = {}
        for item in self.fields:
            if item.info.methods:
                updates[control_box(item.name)] = {"visible": item.name in used}
            if item.info.help_for:
                updates[control(item.name)] = {"info": info_text(item, method)}
        for group in GROUP_TITLES:
            if further := self.further_settings(group):
                updates[group_box(group)] = {"visible": any(item.name in used for item in further)}
        return updates | {Part.DROP_ZONE: {"visible": "dataset_folder" in used}}

    # Plan

    def plan(self, contents: Sequence[object], page: PageState) -> Updates:
        """Shows the plan, without its time, or the problems below their controls."""
        values, problems = read_controls(self.fields, contents)
        plan: Plan | None = None
        if problems:
            problems += self.service.problems(values)
        else:
            try:
                plan = self.service.plan(values)
            except UserError as error:
                problems = error.problems
        page.plan.values, page.plan.plan = values, plan
        page.plan.measuring = plan is not None and plan.seconds_per_step is None and self.service.queue.current is None
        shown = plan_html(plan, measuring=page.plan.measuring) if plan else self._no_plan(problems, values)
        updates: Updates = {Part.PLAN: {"value": shown}}
        updates |= self._problem_updates([p for p in problems if not is_missing(p, values)], page)
        if page.plan.refused:  # a setting has changed, so the message about the start is out of date
            page.plan.refused = False
            updates |= message("")
        return updates

    def measure(self, page: PageState) -> Updates:
        """Measures the time per step and shows the plan with it. If several plans wait, only the latest is measured."""
        if not page.plan.measuring:
            return {}
        self._latest += 1
        mine, values = self._latest, page.plan.values
        with self._measuring:
            if mine != self._latest or values is not page.plan.values:
                return {}
            try:
                shown = plan_html(self.service.plan(values, timed=True))
            except UserError as error:
                shown = self._no_plan(error.problems, values)
        return {Part.PLAN: {"value": shown}} if values is page.plan.values else {}

    def start(self, contents: Sequence[object], page: PageState) -> Updates:
        """Adds the run to the queue, or shows why it cannot start."""
        self._latest += 1  # no plan is measured now, so that the run gets the GPU sooner
        values, problems = read_controls(self.fields, contents)
        if problems:
            return self._refuse(problems + self.service.problems(values), values, page)
        try:
            job = self.service.start(values)
        except UserError as error:
            return self._refuse(error.problems, values, page)
        page.run.expected = job.name, State.QUEUED
        updates = self._problem_updates([], page)
        if page.plan.plan and page.plan.measuring:
            page.plan.measuring = False
            updates[Part.PLAN] = {"value": plan_html(page.plan.plan)}
        return updates | message(f"{job.name} was added to the queue.")

    def dataset_folder(self, page: PageState) -> str:
        """The dataset folder of the last plan; "" if the training method has none."""
        method = page.plan.values.get("training_method")
        used = any(item.name == "dataset_folder" and item.info.used_by(str(method)) for item in self.fields)
        return str(page.plan.values.get("dataset_folder", "")) if used else ""

    def _refuse(self, problems: list[Problem], values: Mapping[str, object], page: PageState) -> Updates:
        page.plan.refused = True
        elsewhere = "\n".join(problem.message for problem in problems if problem.field not in self.names)
        updates = self._problem_updates(problems, page)
        updates[Part.PLAN] = {"value": self._no_plan(problems, values)}
        return updates | message(elsewhere or "The run cannot start. Fix the settings marked in red.", error=True)

    def _no_plan(self, problems: Iterable[Problem], values: Mapping[str, object]) -> str:
        return no_plan_html(problems, values, self.basic)

    def _problem_updates(self, problems: Iterable[Problem], page: PageState) -> Updates:
        """Shows `problems` below their controls and removes those that were shown before."""
        messages: dict[str, list[str]] = {}
        for problem in problems:
            if problem.field in self.names:
                messages.setdefault(problem.field, []).append(problem.message)
        shown = {name: message_html("\n".join(texts), error=True) for name, texts in messages.items()}
        before, page.plan.problems = page.plan.problems, shown
        changed = [name for name in {**before, **shown} if shown.get(name) != before.get(name)]
        return {problems_of(name): {"value": shown.get(name, ""), "visible": name in shown} for name in changed}
