"""The right side of the tab: the run that trains, the line, unfinished runs, and the comparison of epochs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_lora_train.config import CompareConfig
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.comparison import Comparison
from lib_lora_train.evaluation.runs import SavedRuns
from lib_lora_train.queue import Job, State
from lib_lora_train.service import TrainingService
from lib_lora_train.training.samples import sample_prompts
from lib_lora_train.training.tasks import read_task_data
from lib_lora_train.ui import run_view
from lib_lora_train.ui.background import Task, in_background
from lib_lora_train.ui.controls import lines
from lib_lora_train.ui.curve import curve_of, curve_svg
from lib_lora_train.ui.memory import memory_in_use
from lib_lora_train.ui.text import notice
from lib_lora_train.ui.updates import PageState, Updates, changed_only, message_update

Chosen = Mapping[str, str | None]
"""Which run a page's lists stand at, by the part of the page."""
FOLLOW = "(the one that trains)"
"""In the list of runs to show. No run can be called so."""


@dataclass
class RunsPanel:
    """Answers about runs. Everything that lasts is in the workshop's jobs, on disk, or here: never in a page."""

    service: TrainingService
    comparing: Task | None = None
    compared: str | None = None
    """The run whose grid was drawn last, or is being drawn."""
    _prompts: dict[str, list[str]] = field(default_factory=dict)

    # What a page follows

    def tick(
        self, wanted: str | None, chosen: Chosen, page_state: PageState, also_busy: Callable[[], bool] = lambda: False
    ) -> Updates:
        """What is new for a page since its last tick."""
        queue = self.service.queue.all()
        job = self._followed(wanted, queue)
        updates = (
            self._run_answer(job, page_state)
            | self._line_answer(wanted, chosen, queue, page_state)
            | self._comparing_answer(page_state)
        )
        updates["beacon"] = self._poll_status(queue, self.busy() or also_busy())
        return changed_only(page_state, updates) | self._come_true(queue, page_state)

    def _come_true(self, queue: list[Job], page_state: PageState) -> Updates:
        """What was said to come of a click need not be said any longer when the run's state has changed."""
        name, state = page_state.get("awaited") or (None, None)
        if name is None or any(job.name == name and job.state == state for job in queue):
            return {}
        del page_state["awaited"]
        return message_update("")

    def busy(self) -> bool:
        """Whether anything goes on that a page should follow closely."""
        waiting = any(not job.state.is_done for job in self.service.queue.all())
        return waiting or bool(self.comparing and not self.comparing.is_done)

    def _followed(self, wanted: str | None, queue: list[Job]) -> Job | None:
        if wanted and wanted != FOLLOW and (named := [job for job in queue if job.name == wanted]):
            return named[0]
        begun = [job for job in queue if job.state != State.QUEUED]
        return self.service.queue.current or _last(begun or queue)

    def _run_answer(self, job: Job | None, page_state: PageState) -> Updates:
        alive = job is not None and not job.state.is_done
        begun = job is not None and job.state != State.QUEUED
        paused = job is not None and job.control.paused
        memory = memory_in_use() if alive else ""
        updates: Updates = {
            "status": {"value": run_view.status_html(job, memory)},
            "pause": {"value": "Resume" if paused else "Pause", "interactive": alive and begun},
            "stop": {"interactive": alive},
            "discard": {"interactive": job is not None},
            "run buttons": {"visible": job is not None},
        }
        page_state["job"] = job.name if job else None
        count = (id(job), len(job.events)) if job else None
        if count != page_state.get("shown events"):
            page_state["shown events"] = count
            drawing = curve_svg(curve_of(list(job.events))) if job else ""
            updates["curve"] = {"value": drawing, "visible": bool(drawing)}
            pictures = run_view.previews(job, self._prompts_of(job)) if job else []
            updates["previews"] = {"value": pictures, "visible": bool(pictures)}
        return updates

    def _line_answer(self, wanted: str | None, chosen: Chosen, queue: list[Job], page_state: PageState) -> Updates:
        table = run_view.queue_html(queue)
        updates: Updates = {"queue": {"value": table, "visible": bool(table)}}
        names = [FOLLOW, *(job.name for job in reversed(queue))]
        value = wanted if wanted in names else FOLLOW
        updates["followed"] = {"choices": names, "value": value, "visible": len(queue) > 1}
        if (state := [(job.name, job.state) for job in queue]) != page_state.get("shown line"):
            page_state["shown line"] = state
            updates |= self._disk_answer(chosen, page_state)
        return updates

    def _poll_status(self, queue: list[Job], busy: bool) -> dict[str, Any]:
        """For the browser side: whether to follow closely, how many runs are over, what to say aloud."""
        say = run_view.announcement(self.service.queue.current or _last(queue))
        is_done = sum(job.state.is_done for job in queue)
        return {"value": run_view.poll_status_html({"busy": int(busy), "over": is_done, "say": say})}

    def _disk_answer(self, chosen: Chosen, page_state: PageState) -> Updates:
        """What is read from disk, and so only when a run has changed its state."""
        unfinished = self.service.unfinished()
        comparable = [run.name for run in self.service.runs() if run.points]
        updates: Updates = {"unfinished box": {"visible": bool(unfinished)}}
        for part, names in (("unfinished", unfinished), ("compare run", comparable)):
            updates[part] = {"choices": names, "value": self._choice(part, names, chosen.get(part), page_state)}
        return updates

    def _choice(self, part: str, names: list[str], chosen: str | None, page_state: PageState) -> str | None:
        """What a person chose stays chosen while it is there; else the newest is offered."""
        own = chosen != page_state.get(f"offered {part}") or (part == "compare run" and chosen == self.compared)
        if chosen in names and own:
            return chosen
        offered = names[0] if names else None
        page_state[f"offered {part}"] = offered
        return offered

    def _prompts_of(self, job: Job) -> list[str]:
        """The prompts of a run's previews: those that were set, or the first captions."""
        if job.name not in self._prompts:
            try:
                self._prompts[job.name] = job.config.preview.sample_prompts or sample_prompts(
                    job.config, read_task_data(job.config)
                )
            except UserError:
                self._prompts[job.name] = []
        return self._prompts[job.name]

    # What a person does with a run

    def pause_or_go_on(self, page_state: PageState) -> Updates:
        """Pauses the run in view, or lets it go on."""
        job = self._job_in_view(page_state)
        page_state["awaited"] = job.name, job.state
        if job.control.paused:
            self.service.queue.unpause(job.name)
            return message_update(f"{job.name} goes on.")
        self.service.queue.pause(job.name)
        return message_update(f"{job.name} pauses after the present steps.")

    def stop(self, page_state: PageState) -> Updates:
        """Ends the run in view and keeps what it has learned."""
        job = self._job_in_view(page_state)
        page_state["awaited"] = job.name, job.state
        self.service.queue.stop(job.name)
        return message_update(f"{job.name} ends; what it has learned is kept.")

    def ask_to_discard(self, page_state: PageState) -> Updates:
        """Asks before anything is removed."""
        name = self._job_in_view(page_state).name
        page_state["to discard"] = name
        question = notice(f"Remove {name} with its adapters, previews and settings? This cannot be undone.", bad=True)
        return {"discard question": {"value": question}, "discard box": {"visible": True}}

    def discard(self, page_state: PageState) -> Updates:
        """Removes the run that was asked about."""
        name = page_state.pop("to discard", None)
        closed: Updates = {"discard box": {"visible": False}}
        if not name:
            return closed
        self.service.queue.discard(name)
        return closed | message_update(f"{name} is removed as soon as its present steps are done.")

    def keep(self, page_state: PageState) -> Updates:
        """Leaves the run that was asked about as it is."""
        page_state.pop("to discard", None)
        return {"discard box": {"visible": False}}

    def resume(self, name: str | None) -> Updates:
        """Goes on with an unfinished run."""
        if not name:
            raise UserError("No run is chosen. Choose one in the list of unfinished runs.")
        self.service.resume(name)
        return message_update(f"{name} is in the line.")

    def _job_in_view(self, page_state: PageState) -> Job:
        if not page_state.get("job"):
            raise UserError("No run is in view.")
        return self.service.queue.get(page_state["job"])

    # The comparison

    def compare(self, name: str | None, strengths: str, prompts: str) -> Updates:
        """Begins to draw the grid."""
        if not name:
            raise UserError("No run is chosen. Train one, then choose it in the list.")
        if self.comparing and not self.comparing.is_done:
            raise UserError("A grid is being drawn already. Wait until it is done.")
        options = CompareConfig(strengths=numbers(strengths), prompts=lines(prompts))
        self.service.run(name)

        def work(task: Task) -> Comparison:
            return self.service.compare(name, options, task.progress)

        self.compared = name
        self.comparing = in_background(f"Drawing the grid of {name}", work)
        return message_update("")

    def _comparing_answer(self, page_state: PageState) -> Updates:
        task = self.comparing
        if task is None:
            return {}
        how = (
            "\nInterrupt, on the page txt2img, ends it."
            if self.service.environment.txt2img and not task.is_done
            else ""
        )
        text = notice(task.text + how, bad=bool(task.error))
        updates: Updates = {"compare progress": {"value": text, "visible": bool(task.text)}}
        if task.is_done and page_state.get("shown compared") is not task:
            page_state["shown compared"] = task
            result: Comparison | None = task.result
            updates["result box"] = {"visible": result is not None}
            if result is not None:
                updates["grid"] = {"value": [(str(result.grid), "")]}
                updates["reason"] = {"value": notice(result.recommendation.reason)}
                updates["tag"] = {"value": run_view.tag(result.recommended_file.stem)}
        return updates

    def plot_values(self, name: str | None) -> Updates:
        """What the X/Y/Z plot is set to for a run, for the browser side.

        Raises:
            UserError: when there is no such run in the LoRA folder.
        """
        from lib_lora_train.evaluation.xyz_axes import send_values

        if not name:
            raise UserError("No run is chosen. Train one, then choose it in the list.")
        values = send_values(SavedRuns.find(self.service.environment.lora_dir).run(name))
        return {"plot values": {"value": json.dumps(values)}} | message_update(
            "The X/Y/Z plot of txt2img is filled in."
        )


def _last(queue: list[Job]) -> Job | None:
    return queue[-1] if queue else None


def numbers(text: str | None) -> list[float]:
    """The numbers in a text, set apart by commas or spaces.

    Raises:
        UserError: when there is none, or one that cannot be a strength.
    """
    parts = [part for part in re.split(r"[\s,;]+", (text or "").strip()) if part]
    if not parts:
        raise UserError("Strengths: there is none. Use numbers such as 0, 0.5, 1.")
    found: list[Any] = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            raise UserError(f"Strengths: {part!r} is no number. Use numbers such as 0, 0.5, 1.") from None
        if not math.isfinite(found[-1]):
            raise UserError(f"Strengths: {part!r} is no strength. Use numbers such as 0, 0.5, 1.")
    return list(dict.fromkeys(found))
