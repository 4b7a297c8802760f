"""The panels of a service. All pages share them, so background work continues when the interface is rebuilt."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lib_lora_train.service import TrainingService
from lib_lora_train.ui.comparison_panel import ComparisonPanel
from lib_lora_train.ui.gallery_panel import GalleryPanel
from lib_lora_train.ui.presets_panel import PresetsPanel
from lib_lora_train.ui.runs_panel import RunsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel


@dataclass(frozen=True)
class Panels:
    """The handlers of the tab, by topic."""

    settings: SettingsPanel
    presets: PresetsPanel
    gallery: GalleryPanel
    runs: RunsPanel
    comparison: ComparisonPanel


@functools.cache
def panels_of(service: TrainingService) -> Panels:
    """The panels of `service`; the same ones each time."""
    settings = SettingsPanel(service)
    return Panels(settings, PresetsPanel(settings), GalleryPanel(service), RunsPanel(service), ComparisonPanel(service))
