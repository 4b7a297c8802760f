"""The right side of the tab: the run that trains, the line, unfinished runs, and the comparison of epochs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_lora_train.compare.comparison import Comparison
from lib_lora_train.compare.runs import Runs
from lib_lora_train.config import CompareConfig
from lib_lora_train.errors import UserError
from lib_lora_train.jobs import Job, State
from lib_lora_train.training.lessons import material_of
from lib_lora_train.training.previews import preview_prompts
from lib_lora_train.ui import run_view
from lib_lora_train.ui.answer import Answer, Seen, news, said
from lib_lora_train.ui.background import Task, in_background
from lib_lora_train.ui.controls import lines
from lib_lora_train.ui.curve import curve_of, curve_svg
from lib_lora_train.ui.memory import memory_in_use
from lib_lora_train.ui.text import notice
from lib_lora_train.workshop import Workshop

Chosen = Mapping[str, str | None]
"""Which run a page's lists stand at, by the part of the page."""
FOLLOW = "(the one that trains)"
"""In the list of runs to show. No run can be called so."""


@dataclass
class RunsDesk:
    """Answers about runs. Everything that lasts is in the workshop's jobs, on disk, or here: never in a page."""

    workshop: Workshop
    comparing: Task | None = None
    compared: str | None = None
    """The run whose grid was drawn last, or is being drawn."""
    _prompts: dict[str, list[str]] = field(default_factory=dict)

    # What a page follows

    def tick(self, wanted: str | None, chosen: Chosen, seen: Seen, also_busy: Callable[[], bool] = lambda: False) -> Answer:
        """What is new for a page since its last tick."""
        jobs = self.workshop.jobs.all()
        job = self._followed(wanted, jobs)
        answer = self._run_answer(job, seen) | self._line_answer(wanted, chosen, jobs, seen) | self._comparing_answer(seen)
        answer["beacon"] = self._beacon(jobs, self.busy() or also_busy())
        return news(seen, answer) | self._come_true(jobs, seen)

    def _come_true(self, jobs: list[Job], seen: Seen) -> Answer:
        """What was said to come of a click need not be said any longer when the run's state has changed."""
        name, state = seen.get("awaited") or (None, None)
        if name is None or any(job.name == name and job.state == state for job in jobs):
            return {}
        del seen["awaited"]
        return said("")

    def busy(self) -> bool:
        """Whether anything goes on that a page should follow closely."""
        waiting = any(not job.state.over for job in self.workshop.jobs.all())
        return waiting or bool(self.comparing and not self.comparing.over)

    def _followed(self, wanted: str | None, jobs: list[Job]) -> Job | None:
        if wanted and wanted != FOLLOW and (named := [job for job in jobs if job.name == wanted]):
            return named[0]
        begun = [job for job in jobs if job.state != State.WAITING]
        return self.workshop.jobs.current or _last(begun or jobs)

    def _run_answer(self, job: Job | None, seen: Seen) -> Answer:
        alive = job is not None and not job.state.over
        begun = job is not None and job.state != State.WAITING
        paused = job is not None and job.control.paused
        memory = memory_in_use() if alive else ""
        answer: Answer = {
            "status": {"value": run_view.status_html(job, memory)},
            "pause": {"value": "Resume" if paused else "Pause", "interactive": alive and begun},
            "stop": {"interactive": alive},
            "discard": {"interactive": job is not None},
            "run buttons": {"visible": job is not None},
        }
        seen["job"] = job.name if job else None
        count = (id(job), len(job.events)) if job else None
        if count != seen.get("shown events"):
            seen["shown events"] = count
            drawing = curve_svg(curve_of(list(job.events))) if job else ""
            answer["curve"] = {"value": drawing, "visible": bool(drawing)}
            pictures = run_view.previews(job, self._prompts_of(job)) if job else []
            answer["previews"] = {"value": pictures, "visible": bool(pictures)}
        return answer

    def _line_answer(self, wanted: str | None, chosen: Chosen, jobs: list[Job], seen: Seen) -> Answer:
        table = run_view.queue_html(jobs)
        answer: Answer = {"queue": {"value": table, "visible": bool(table)}}
        names = [FOLLOW, *(job.name for job in reversed(jobs))]
        value = wanted if wanted in names else FOLLOW
        answer["followed"] = {"choices": names, "value": value, "visible": len(jobs) > 1}
        if (state := [(job.name, job.state) for job in jobs]) != seen.get("shown line"):
            seen["shown line"] = state
            answer |= self._disk_answer(chosen, seen)
        return answer

    def _beacon(self, jobs: list[Job], busy: bool) -> dict[str, Any]:
        """For the browser side: whether to follow closely, how many runs are over, what to say aloud."""
        say = run_view.announcement(self.workshop.jobs.current or _last(jobs))
        over = sum(job.state.over for job in jobs)
        return {"value": run_view.beacon_html({"busy": int(busy), "over": over, "say": say})}

    def _disk_answer(self, chosen: Chosen, seen: Seen) -> Answer:
        """What is read from disk, and so only when a run has changed its state."""
        unfinished = self.workshop.unfinished()
        comparable = [run.name for run in self.workshop.runs() if run.points]
        answer: Answer = {"unfinished box": {"visible": bool(unfinished)}}
        for part, names in (("unfinished", unfinished), ("compare run", comparable)):
            answer[part] = {"choices": names, "value": self._choice(part, names, chosen.get(part), seen)}
        return answer

    def _choice(self, part: str, names: list[str], chosen: str | None, seen: Seen) -> str | None:
        """What a person chose stays chosen while it is there; else the newest is offered."""
        own = chosen != seen.get(f"offered {part}") or (part == "compare run" and chosen == self.compared)
        if chosen in names and own:
            return chosen
        offered = names[0] if names else None
        seen[f"offered {part}"] = offered
        return offered

    def _prompts_of(self, job: Job) -> list[str]:
        """The prompts of a run's previews: those that were set, or the first captions."""
        if job.name not in self._prompts:
            try:
                self._prompts[job.name] = job.config.preview.preview_prompts or preview_prompts(job.config, material_of(job.config))
            except UserError:
                self._prompts[job.name] = []
        return self._prompts[job.name]

    # What a person does with a run

    def pause_or_go_on(self, seen: Seen) -> Answer:
        """Pauses the run in view, or lets it go on."""
        job = self._job_in_view(seen)
        seen["awaited"] = job.name, job.state
        if job.control.paused:
            self.workshop.jobs.go_on(job.name)
            return said(f"{job.name} goes on.")
        self.workshop.jobs.pause(job.name)
        return said(f"{job.name} pauses after the present steps.")

    def stop(self, seen: Seen) -> Answer:
        """Ends the run in view and keeps what it has learned."""
        job = self._job_in_view(seen)
        seen["awaited"] = job.name, job.state
        self.workshop.jobs.stop(job.name)
        return said(f"{job.name} ends; what it has learned is kept.")

    def ask_to_discard(self, seen: Seen) -> Answer:
        """Asks before anything is removed."""
        name = self._job_in_view(seen).name
        seen["to discard"] = name
        question = notice(f"Remove {name} with its adapters, previews and settings? This cannot be undone.", bad=True)
        return {"discard question": {"value": question}, "discard box": {"visible": True}}

    def discard(self, seen: Seen) -> Answer:
        """Removes the run that was asked about."""
        name = seen.pop("to discard", None)
        closed: Answer = {"discard box": {"visible": False}}
        if not name:
            return closed
        self.workshop.jobs.discard(name)
        return closed | said(f"{name} is removed as soon as its present steps are done.")

    def keep(self, seen: Seen) -> Answer:
        """Leaves the run that was asked about as it is."""
        seen.pop("to discard", None)
        return {"discard box": {"visible": False}}

    def resume(self, name: str | None) -> Answer:
        """Goes on with an unfinished run."""
        if not name:
            raise UserError("No run is chosen. Choose one in the list of unfinished runs.")
        self.workshop.resume(name)
        return said(f"{name} is in the line.")

    def _job_in_view(self, seen: Seen) -> Job:
        if not seen.get("job"):
            raise UserError("No run is in view.")
        return self.workshop.jobs.get(seen["job"])

    # The comparison

    def compare(self, name: str | None, strengths: str, prompts: str) -> Answer:
        """Begins to draw the grid."""
        if not name:
            raise UserError("No run is chosen. Train one, then choose it in the list.")
        if self.comparing and not self.comparing.over:
            raise UserError("A grid is being drawn already. Wait until it is done.")
        options = CompareConfig(strengths=numbers(strengths), prompts=lines(prompts))
        self.workshop.run(name)

        def work(task: Task) -> Comparison:
            return self.workshop.compare(name, options, task.progress)

        self.compared = name
        self.comparing = in_background(f"Drawing the grid of {name}", work)
        return said("")

    def _comparing_answer(self, seen: Seen) -> Answer:
        task = self.comparing
        if task is None:
            return {}
        how = "\nInterrupt, on the page txt2img, ends it." if self.workshop.place.txt2img and not task.over else ""
        text = notice(task.text + how, bad=bool(task.error))
        answer: Answer = {"compare progress": {"value": text, "visible": bool(task.text)}}
        if task.over and seen.get("shown compared") is not task:
            seen["shown compared"] = task
            result: Comparison | None = task.result
            answer["result box"] = {"visible": result is not None}
            if result is not None:
                answer["grid"] = {"value": [(str(result.grid), "")]}
                answer["reason"] = {"value": notice(result.recommendation.reason)}
                answer["tag"] = {"value": run_view.tag(result.recommended_file.stem)}
        return answer

    def plot_values(self, name: str | None) -> Answer:
        """What the X/Y/Z plot is set to for a run, for the browser side.

        Raises:
            UserError: when there is no such run in the LoRA folder.
        """
        from lib_lora_train.compare.axes import send_values

        if not name:
            raise UserError("No run is chosen. Train one, then choose it in the list.")
        values = send_values(Runs.find(self.workshop.place.lora_dir).run(name))
        return {"plot values": {"value": json.dumps(values)}} | said("The X/Y/Z plot of txt2img is filled in.")


def _last(jobs: list[Job]) -> Job | None:
    return jobs[-1] if jobs else None


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
