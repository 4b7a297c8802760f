"""The left side of the tab: settings, presets, the plan, and the images with their captions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora_train.config import GROUP_TITLES, Field, Problem
from lib_lora_train.dataset.captioning import CaptionReport
from lib_lora_train.errors import UserError
from lib_lora_train.presets import ONE_RUN, delete_preset, list_presets, load_preset, save_preset
from lib_lora_train.queue import State
from lib_lora_train.service import TrainingService
from lib_lora_train.training.plan import Plan
from lib_lora_train.ui.background import Task, in_background
from lib_lora_train.ui.controls import method_of, offered, read, shown, visible_first
from lib_lora_train.ui.gallery import caption_of, open_page, thumbnails, write_caption
from lib_lora_train.ui.plan_view import EMPTY_AT_FIRST, blocked_html, plan_html
from lib_lora_train.ui.text import problem_note
from lib_lora_train.ui.updates import PageState, Updates, message_update
from lib_lora_train.uploads import store_uploads, uploads_of

NO_NAME = "images"


@dataclass
class SettingsPanel:
    """Answers to what a person does with the settings. Holds nothing of a page; that is in its `seen`."""

    service: TrainingService
    fields: list[Field] = field(init=False)
    captioning: Task | None = None
    """Outlives the page, as the runs do."""
    _timing: threading.Lock = field(default_factory=threading.Lock)
    _latest: int = 0

    def __post_init__(self) -> None:
        self.fields = offered(self.service.environment.shares_checkpoint)

    @property
    def in_view(self) -> set[str]:
        """Settings that are visible before anything is opened."""
        return {item.name for item in visible_first(self.fields)}

    def busy(self) -> bool:
        """Whether anything goes on that a page should follow closely."""
        return self.captioning is not None and not self.captioning.is_done

    # The plan

    def plan(self, raw: Sequence[Any], page_state: PageState) -> Updates:
        """The plan without its time, or the problems beside their fields."""
        values, problems = read(self.fields, raw)
        page_state["values"] = values
        images = {item.name for item in self.fields_of(method_of(self.fields, raw))} & {"dataset_folder"}
        updates = self._gallery_if_new(values.get("dataset_folder", "") if images else "", page_state)
        try:
            plan = None if problems else self.service.plan(values)
        except UserError as error:
            problems = error.problems
            plan = None
        else:
            problems = problems + (self.service.problems(values) if problems else [])
        page_state["plan"] = plan is not None and plan.seconds_per_step is None and self.service.queue.current is None
        updates |= self._notes(problems, values, page_state, pressed=False)
        updates["plan"] = {"value": self._plan_text(plan, problems, measuring=page_state["plan"])}
        # Something was changed since Train was refused, so that is old news; what is still wrong stands by its field.
        return updates | (message_update("") if page_state.pop("refused", False) else {})

    def timed(self, page_state: PageState) -> Updates:
        """The same plan with its time. Of several that wait, only the latest tries the steps."""
        if not page_state.get("plan"):
            return {}
        self._latest += 1
        mine, values = self._latest, page_state["values"]
        with self._timing:
            if mine != self._latest or values is not page_state["values"]:
                return {}
            try:
                plan = self.service.plan(values, timed=True)
            except UserError as error:
                return {"plan": {"value": self._plan_text(None, error.problems)}}
        return {"plan": {"value": plan_html(plan)}} if values is page_state["values"] else {}

    def start(self, raw: Sequence[Any], page_state: PageState) -> Updates:
        """Puts the run into the line, or says what keeps it from starting."""
        self._latest += 1  # whoever still waits to try some steps need not, and the run gets the device sooner
        values, problems = read(self.fields, raw)
        try:
            if problems:
                problems += self.service.problems(values)
            else:
                job = self.service.start(values)
                page_state["awaited"] = job.name, State.QUEUED
                return self._notes([], values, page_state, pressed=True) | message_update(f"{job.name} is in the line.")
        except UserError as error:
            problems = problems or error.problems
        updates = self._notes(problems, values, page_state, pressed=True)
        updates["plan"] = {"value": self._plan_text(None, problems)}
        page_state["refused"] = True
        loose = "\n".join(p.message for p in problems if p.field not in self._names)
        return updates | message_update(loose or "The run cannot start yet: see the red text.", bad=True)

    @property
    def _names(self) -> set[str]:
        return {item.name for item in self.fields}

    def _plan_text(self, plan: Plan | None, problems: Iterable[Problem], *, measuring: bool = False) -> str:
        return plan_html(plan, measuring=measuring) if plan else blocked_html(problems, self.in_view)

    def _notes(
        self, problems: Sequence[Problem], values: dict[str, Any], page_state: PageState, *, pressed: bool
    ) -> Updates:
        """The notes under fields, for those where they change."""
        notes: dict[str, str] = {}
        for name in {problem.field for problem in problems} & self._names:
            own = [problem for problem in problems if problem.field == name]
            hint = name in EMPTY_AT_FIRST and not values.get(name) and not pressed
            notes[name] = "" if hint else problem_note(own, hint=False)
        notes = {name: text for name, text in notes.items() if text}
        before: dict[str, str] = page_state.get("notes", {})
        page_state["notes"] = notes
        changed = {name for name in {*notes, *before} if notes.get(name) != before.get(name)}
        return {f"note {name}": {"value": notes.get(name, ""), "visible": name in notes} for name in changed}

    # The way of teaching

    def fields_of(self, method: str) -> list[Field]:
        """The settings that a mode uses."""
        return [item for item in self.fields if item.info.used_by(method)]

    def more_about(self, group: str) -> list[Field]:
        """A group's settings that are not in view before it is opened."""
        return [item for item in self.fields if item.group == group and item.name not in self.in_view]

    def show_method(self, chosen: str | None) -> Updates:
        """Shows what the mode uses, and nothing else."""
        field = next(item for item in self.fields if item.name == "training_method")
        method = method_of([field], [chosen])
        used = {item.name for item in self.fields_of(method)}
        updates: Updates = {
            f"box {item.name}": {"visible": item.name in used} for item in self.fields if item.info.methods
        }
        for group in GROUP_TITLES:
            if more := self.more_about(group):
                updates[f"group {group}"] = {"visible": any(item.name in used for item in more)}
        return updates | {"drop zone": {"visible": "dataset_folder" in used}}

    # Presets

    def preset_names(self) -> list[str]:
        presets = list_presets(self.service.environment.presets_dir)
        return [preset.name.capitalize() if preset.shipped else preset.name for preset in presets]

    def load_preset(self, name: str | None) -> Updates:
        """Fills the settings that the preset holds, which are all but those of one run."""
        if not name:
            return {}
        folder = self.service.environment.presets_dir
        values = load_preset(name, folder)
        by_name = {item.name: item for item in self.fields}
        updates: Updates = {n: {"value": shown(by_name[n], v)} for n, v in values.items() if n in by_name}
        about = next((p.about for p in list_presets(folder) if p.name.casefold() == name.casefold()), "")
        return updates | message_update(f"{name}: {about}" if about else f"The settings are now those of {name}.")

    def save_preset(self, name: str, raw: Sequence[Any]) -> Updates:
        """Keeps the present settings as a preset of the user."""
        values, problems = read(self.fields, raw)
        if problems:
            raise UserError(problems=problems)
        own = {key: value for key, value in values.items() if key in self.preset_fields()}
        path = save_preset((name or "").strip(), own, self.service.environment.presets_dir)
        choices: Updates = {
            "preset": {"choices": self.preset_names(), "value": path.stem},
            "preset name": {"value": ""},
        }
        return choices | message_update(f"The preset {path.stem} is saved.")

    def delete_preset(self, name: str | None) -> Updates:
        """Deletes the preset that is chosen."""
        if not name:
            raise UserError("No preset is chosen. Choose the one to delete in the list Preset.")
        delete_preset(name, self.service.environment.presets_dir)
        return {"preset": {"choices": self.preset_names(), "value": None}} | message_update(
            f"The preset {name} is deleted."
        )

    def preset_fields(self) -> set[str]:
        """Settings that a preset holds."""
        return self._names - ONE_RUN

    # Images

    def uploaded(self, files: str, upload_folder: Path, name: str, images: str) -> Updates:
        """Stores dropped files as a dataset and names its folder. `files`: where the server put them, as JSON."""
        if not files:
            return {}
        environment = self.service.environment
        uploads = uploads_of(_paths(files), upload_folder)
        folder = store_uploads(uploads, environment.datasets_dir, self._dataset_name(name, images))
        count = sum(not upload.is_caption for upload in uploads)
        captions = len(uploads) - count
        also = f" and {captions} captions" if captions else ""
        updates = message_update(f"{count} images{also} are now in {folder}.")
        return updates | {"dataset_folder": {"value": str(folder)}, "dropped": {"value": ""}}

    def _dataset_name(self, name: str, images: str) -> str:
        """The run's name; without one the dataset that is in use, so that more files can be added, else a new one."""
        if (name or "").strip():
            return name.strip()
        root, current = self.service.environment.datasets_dir, Path((images or "").strip())
        if images and current.is_absolute() and current.parent == root:
            return current.name
        taken = {path.name for path in root.glob(f"{NO_NAME}-*")}
        return next(name for name in (f"{NO_NAME}-{i}" for i in range(1, len(taken) + 2)) if name not in taken)

    def _gallery_if_new(self, images: str, page_state: PageState) -> Updates:
        if images == page_state.get("album of") and not self._folder_changed(page_state):
            return {}
        page_state["album of"] = images
        return self.turn_to(0, page_state)

    def _folder_changed(self, page_state: PageState) -> bool:
        folder: Path | None = page_state.get("folder")
        try:
            return folder is not None and folder.stat().st_mtime_ns != page_state.get("folder time")
        except OSError:
            return True

    def turn_to(self, number: int, page_state: PageState) -> Updates:
        """A page of the images; nothing where there is no folder that may be read."""
        try:
            folder = (
                self.service.environment.readable(page_state.get("album of") or "")
                if page_state.get("album of")
                else None
            )
        except UserError:
            folder = None
        page_state["picked"], page_state["folder"] = None, folder
        nobody: Updates = {
            "caption": {"value": "", "interactive": False, "label": "Caption"},
            "save caption": {"interactive": False},
        }
        if folder is None:
            return nobody | {"album": {"value": []}, "album title": {"value": ""}, "album box": {"visible": False}}
        page_state["folder time"] = folder.stat().st_mtime_ns
        page = open_page(folder, number)
        page_state["page"] = page
        turning = {"visible": page.pages > 1}
        return nobody | {
            "album": {"value": thumbnails(page)},
            "album title": {"value": problem_note([Problem("", page.title)], hint=True)},
            "album box": {"visible": True},
            "page back": turning | {"interactive": page.number > 0},
            "page on": turning | {"interactive": page.number + 1 < page.pages},
        }

    def turn_by(self, pages: int, page_state: PageState) -> Updates:
        """The page before or after."""
        return self.turn_to(page_state["page"].number + pages, page_state) if page_state.get("page") else {}

    def pick(self, environment: int, page_state: PageState) -> Updates:
        """The image at `place` of the page, with its caption to edit."""
        page = page_state.get("page")
        if page is None or not 0 <= environment < len(page.paths):
            return {}
        image = page.paths[environment]
        page_state["picked"] = image
        text = caption_of(page.folder, image)
        label = f"Caption of {image.name}"
        return {"caption": {"value": text, "interactive": True, "label": label}, "save caption": {"interactive": True}}

    def save_caption(self, text: str, page_state: PageState) -> Updates:
        """Writes the caption of the image that was picked."""
        image, page = page_state.get("picked"), page_state.get("page")
        if image is None or page is None:
            raise UserError("No image is chosen. Click one first.")
        file = write_caption(image, text or "")
        fresh = open_page(page.folder, page.number)
        page_state["page"], page_state["folder time"] = fresh, page.folder.stat().st_mtime_ns
        return {"album": {"value": thumbnails(fresh)}} | message_update(f"{file.name} is saved.")

    def caption_all(self, captioner: str, images: str, trigger_word: str, overwrite: bool) -> Updates:
        """Begins to caption the images."""
        if self.captioning and not self.captioning.is_done:
            self.captioning.stop_requested = True
            return message_update("Captioning ends after the present image.")

        def work(task: Task) -> CaptionReport:
            return self.service.caption(
                (images or "").strip(),
                captioner,
                overwrite=bool(overwrite),
                trigger_word=(trigger_word or "").strip(),
                progress=task.progress,
                should_stop=task.should_stop,
            )

        self.captioning = in_background(f"Captioning with {captioner}", work)
        return message_update(f"Captioning with {captioner} has begun. Press again to stop it.")

    def captioning_news(self, page_state: PageState) -> Updates:
        """How far the captioning is; its report and the new captions when it is over."""
        task = self.captioning
        if task is None:
            return {}
        if not task.is_done:
            return {"caption progress": {"value": problem_note([Problem("", task.text)], hint=True), "visible": True}}
        updates: Updates = {"caption progress": {"value": "", "visible": False}}
        if page_state.get("captioned") is not task:
            page_state["captioned"] = task
            report = task.result
            problems = "\n".join(report.problems[:5]) if report else ""
            updates |= message_update(task.error or f"{report}\n{problems}", bad=bool(task.error))
            if page_state.get("page"):
                updates |= self.turn_to(page_state["page"].number, page_state)
        return updates


def _paths(text: str) -> list[str]:
    try:
        paths = json.loads(text)
    except ValueError:
        paths = None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError("The files did not arrive. Drop them again.")
    return paths
