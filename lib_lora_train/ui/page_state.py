"""What the server knows of one open page. Each page has its own; runs and background tasks belong to the panels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lib_lora_train.queue import State
from lib_lora_train.training.plan import Plan
from lib_lora_train.ui.background import BackgroundTask
from lib_lora_train.ui.gallery import GalleryPage
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.updates import Updates


@dataclass
class PlanState:
    """The plan and the settings it is for.

    Attributes:
        values: the settings that the last plan was made for.
        problems: setting -> the problems shown below it, as HTML.
        plan: the plan that is shown, or None.
        measuring: whether its time per step is still to be measured.
        refused: whether a message says that the run cannot start.
    """

    values: dict[str, object] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    measuring: bool = False
    refused: bool = False


@dataclass
class GalleryState:
    """The images of the dataset folder.

    Attributes:
        dataset_folder: as it is typed in the setting; "" if the training method has none.
        folder: the folder that it means, or None if it cannot be read.
        modified: the folder's modification time when it was listed, in ns.
        page: the images shown.
        selected: the image whose caption is edited.
        captioning: the captioning whose report has been shown.
    """

    dataset_folder: str = ""
    folder: Path | None = None
    modified: int = 0
    page: GalleryPage | None = None
    selected: Path | None = None
    captioning: BackgroundTask | None = None


@dataclass
class RunState:
    """The run that is shown and what its buttons do.

    Attributes:
        name: of the run that is shown.
        expected: (run, its state when a button was pressed): the message about it is removed once the state changes.
        discarding: the run whose deletion is to be confirmed.
        suggested: list of runs -> the run that was selected in it by default.
    """

    name: str = ""
    expected: tuple[str, State] | None = None
    discarding: str = ""
    suggested: dict[Part, str | None] = field(default_factory=dict)


@dataclass
class Shown:
    """What the page shows. Costly parts are computed again only when what they are made of has changed.

    Attributes:
        parts: the properties that were sent.
        events: (job, number of its events) that curve and samples were made of.
        queue: (run, state) of each job when the runs on disk were listed.
        grid: the comparison whose result is shown.
    """

    parts: Updates = field(default_factory=dict)
    events: tuple[int, int] | None = None
    queue: list[tuple[str, State]] | None = None
    grid: BackgroundTask | None = None


@dataclass
class PageState:
    """One open page."""

    plan: PlanState = field(default_factory=PlanState)
    gallery: GalleryState = field(default_factory=GalleryState)
    run: RunState = field(default_factory=RunState)
    shown: Shown = field(default_factory=Shown)
    sequence_number: int = 0

    def changes(self, updates: Updates) -> Updates:
        """Those of `updates` that the page does not show yet."""
        changed = {part: change for part, change in updates.items() if self.shown.parts.get(part) != change}
        self.shown.parts |= changed
        return changed

    def next_poll(self, ack: str | None) -> Updates:
        """Starts the reply to a poll, with a new sequence number that the page returns with its next poll as `ack`.

        If `ack` is not the last number, the page did not receive the last reply, so everything is sent again.
        """
        if (ack or "0") != str(self.sequence_number):
            self.shown = Shown()
        self.sequence_number += 1
        return {Part.ACK: {"value": str(self.sequence_number)}}
