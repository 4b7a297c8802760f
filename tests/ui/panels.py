"""A service and pages for the tests of the tab's handlers: no Gradio, no browser."""

from __future__ import annotations

from pathlib import Path

from lib_lora_train.hosts.environment import Environment
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.queue import wait_until_over
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.controls import control_value
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.runs_panel import RunsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel
from lib_lora_train.ui.updates import Properties, Updates
from tests.training.runs import SharingHost, photos

SHORT = {
    "dataset_folder": "cats",
    "resolution": 64,
    "rank": 2,
    "max_steps": 1,
    "sample_every_n_epochs": 0,
    "validate_every_n_epochs": 0,
}
"""A run of one step on the images in the folder cats."""


def make_service(checkpoint: SharedCheckpoint, folder: Path) -> TrainingService:
    """A service in `folder` that shares `checkpoint`, with four captioned images in the folder cats."""
    photos(folder / "cats")
    environment = Environment(
        title="test",
        make_host=lambda config: SharingHost(checkpoint),
        lora_dir=folder / "Lora",
        data_dir=folder / "data",
        shares_checkpoint=True,
        readable=lambda text: folder / text,
    )
    return TrainingService(environment)


def contents(panel: SettingsPanel, **values: object) -> list[object]:
    """What the controls contain when `values` were entered and the rest left at its default."""
    return [control_value(field, values.get(field.name, field.default)) for field in panel.fields]


def train(service: TrainingService, name: str, **settings: object) -> None:
    """Trains a short run to its end."""
    wait_until_over(service.start({**SHORT, **settings, "name": name}))


def poll(panel: RunsPanel, page: PageState, **selected: str) -> Updates:
    """The updates of a poll; `selected` by the name of the list in lower case."""
    return panel.poll({Part[part.upper()]: name for part, name in selected.items()}, page, is_busy=False)


def hidden_message() -> Properties:
    return {"value": "", "visible": False}
