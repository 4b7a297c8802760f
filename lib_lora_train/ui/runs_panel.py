"""Runs: the handlers of the buttons, and what a page polls for while a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_lora_train.errors import UserError
from lib_lora_train.queue import Job, State
from lib_lora_train.service import TrainingService
from lib_lora_train.ui import run_view
from lib_lora_train.ui.curve import curve_of, curve_svg
from lib_lora_train.ui.html import message_html
from lib_lora_train.ui.memory import memory_in_use
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import AnyPart, Part
from lib_lora_train.ui.updates import Updates, message

CURRENT = "(current run)"
"""A choice in the list of runs to show. No run can have this name."""

Selected = Mapping[AnyPart, str | None]
"""List of runs -> the run that is selected in it."""


@dataclass
class RunsPanel:
    """Shared by all pages."""

    service: TrainingService

    # What a page polls for

    def poll(self, selected: Selected, page: PageState, *, is_busy: bool) -> Updates:
        """All that may have changed since the last poll. `is_busy`: something else than a run is in progress."""
        jobs = self.service.queue.all()
        job = self._shown_job(selected.get(Part.SELECTED_RUN), jobs)
        page.run.name = job.name if job else ""
        updates = self._run_updates(job) | self._queue_updates(selected, jobs)
        if (events := (id(job), len(job.events)) if job else None) != page.shown.events:
            page.shown.events = events
            updates |= _event_updates(job)
        if (queue := [(other.name, other.state) for other in jobs]) != page.shown.queue:
            page.shown.queue = queue
            updates |= self._disk_updates(selected, page)
        updates[Part.POLL_STATUS] = self._poll_status(jobs, is_busy)
        return page.changes(updates) | self._expired_message(jobs, page)

    def _shown_job(self, name: str | None, jobs: list[Job]) -> Job | None:
        """The run that is selected, else the current one, else the last."""
        for job in jobs:
            if job.name == name:
                return job
        started = [job for job in jobs if job.state != State.QUEUED]
        return self.service.queue.current or _last(started or jobs)

    def _run_updates(self, job: Job | None) -> Updates:
        is_active = job is not None and not job.state.is_done
        is_started = job is not None and job.state != State.QUEUED
        is_paused = job is not None and job.control.paused
        memory = memory_in_use() if is_active else ""
        return {
            Part.STATUS: {"value": run_view.status_html(job, memory)},
            Part.PAUSE: {"value": "Resume" if is_paused else "Pause", "interactive": is_active and is_started},
            Part.STOP: {"interactive": is_active},
            Part.DISCARD: {"interactive": job is not None},
            Part.RUN_BUTTONS: {"visible": job is not None},
        }

    def _queue_updates(self, selected: Selected, jobs: list[Job]) -> Updates:
        table = run_view.queue_html(jobs)
        choices = [CURRENT, *(job.name for job in reversed(jobs))]
        name = selected.get(Part.SELECTED_RUN)
        value = name if name in choices else CURRENT
        return {
            Part.QUEUE: {"value": table, "visible": bool(table)},
            Part.SELECTED_RUN: {"choices": choices, "value": value, "visible": len(jobs) > 1},
        }

    def _disk_updates(self, selected: Selected, page: PageState) -> Updates:
        """The lists of runs on disk. They change only when a run changes its state."""
        unfinished = self.service.unfinished()
        comparable = [run.name for run in self.service.runs() if run.points]
        updates: Updates = {Part.UNFINISHED_BOX: {"visible": bool(unfinished)}}
        for part, names in ((Part.UNFINISHED, unfinished), (Part.COMPARISON_RUN, comparable)):
            updates[part] = {"choices": names, "value": _selection(part, names, selected.get(part), page)}
        return updates

    def _poll_status(self, jobs: list[Job], is_busy: bool) -> dict[str, object]:
        """For the browser: how soon to poll again, how many runs are over, and the text for screen readers."""
        over = sum(job.state.is_done for job in jobs)
        values = {
            "busy": int(is_busy or over < len(jobs)),
            "over": over,
            "announcement": run_view.announcement(self.service.queue.current or _last(jobs)),
        }
        return {"value": run_view.poll_status_html(values)}

    def _expired_message(self, jobs: list[Job], page: PageState) -> Updates:
        """Removes the message about a button when the run's state has changed."""
        if page.run.expected is None or page.run.expected in [(job.name, job.state) for job in jobs]:
            return {}
        page.run.expected = None
        return message("")

    # Buttons

    def pause_or_unpause(self, page: PageState) -> Updates:
        """Pauses the run that is shown, or lets it continue."""
        job = self._job(page)
        page.run.expected = job.name, job.state
        if job.control.paused:
            self.service.queue.unpause(job.name)
            return message(f"{job.name} continues.")
        self.service.queue.pause(job.name)
        return message(f"{job.name} pauses after the current steps.")

    def stop(self, page: PageState) -> Updates:
        """Stops the run that is shown and saves what it has trained."""
        job = self._job(page)
        page.run.expected = job.name, job.state
        self.service.queue.stop(job.name)
        return message(f"{job.name} is being stopped. What has been trained is saved.")

    def ask_to_discard(self, page: PageState) -> Updates:
        """Asks for confirmation before a run is deleted."""
        name = page.run.discarding = self._job(page).name
        question = f"Delete {name} with its adapters, sample images and settings? This cannot be undone."
        return {
            Part.DISCARD_QUESTION: {"value": message_html(question, error=True)},
            Part.DISCARD_BOX: {"visible": True},
        }

    def discard(self, page: PageState) -> Updates:
        """Deletes the run that was asked about."""
        name, page.run.discarding = page.run.discarding, ""
        closed: Updates = {Part.DISCARD_BOX: {"visible": False}}
        if not name:
            return closed
        self.service.queue.discard(name)
        is_gone = all(job.name != name for job in self.service.queue.all())
        return closed | message(f"{name} was deleted." if is_gone else f"{name} is deleted after the current steps.")

    def cancel_discard(self, page: PageState) -> Updates:
        """Keeps the run that was asked about."""
        page.run.discarding = ""
        return {Part.DISCARD_BOX: {"visible": False}}

    def resume(self, name: str | None, page: PageState) -> Updates:
        """Adds an unfinished run to the queue."""
        if not name:
            raise UserError("Select a run under Unfinished runs first.")
        self.service.resume(name)
        page.run.expected = name, State.QUEUED
        return message(f"{name} was added to the queue.")

    def _job(self, page: PageState) -> Job:
        if not page.run.name:
            raise UserError("There is no run.")
        return self.service.queue.get(page.run.name)


def _event_updates(job: Job | None) -> Updates:
    """Curve and samples. They change only when there are new events."""
    curve = curve_svg(curve_of(list(job.events))) if job else ""
    images = run_view.samples(job) if job else []
    return {
        Part.CURVE: {"value": curve, "visible": bool(curve)},
        Part.SAMPLES: {"value": images, "visible": bool(images)},
    }


def _selection(part: Part, names: list[str], selected: str | None, page: PageState) -> str | None:
    """The user's own selection as long as it exists; else the newest run."""
    if selected in names and selected != page.run.suggested.get(part):
        return selected
    page.run.suggested[part] = names[0] if names else None
    return page.run.suggested[part]


def _last(jobs: list[Job]) -> Job | None:
    return jobs[-1] if jobs else None
