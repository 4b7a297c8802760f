"""The names of the page's parts. Panels update parts by these names and know no Gradio components."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Part(enum.Enum):
    """A part that exists once."""

    # Hidden: what javascript/lora_train.js clicks, fills in and reads
    PAGE_STATE = enum.auto()
    POLL = enum.auto()
    POLL_STATUS = enum.auto()
    ACK = enum.auto()
    UPDATE_PLAN = enum.auto()
    MEASURE = enum.auto()
    UPLOADED = enum.auto()
    PLOT_VALUES = enum.auto()
    # Presets
    PRESET = enum.auto()
    PRESET_NAME = enum.auto()
    SAVE_PRESET = enum.auto()
    DELETE_PRESET = enum.auto()
    # The dataset's images and captions
    DROP_ZONE = enum.auto()
    GALLERY_BOX = enum.auto()
    GALLERY_TITLE = enum.auto()
    GALLERY = enum.auto()
    PREVIOUS_IMAGES = enum.auto()
    NEXT_IMAGES = enum.auto()
    CAPTION = enum.auto()
    SAVE_CAPTION = enum.auto()
    OVERWRITE_CAPTIONS = enum.auto()
    CAPTIONING_PROGRESS = enum.auto()
    # The plan and the run
    PLAN = enum.auto()
    TRAIN = enum.auto()
    RUN_BUTTONS = enum.auto()
    PAUSE = enum.auto()
    STOP = enum.auto()
    DISCARD = enum.auto()
    DISCARD_BOX = enum.auto()
    DISCARD_QUESTION = enum.auto()
    CONFIRM_DISCARD = enum.auto()
    CANCEL_DISCARD = enum.auto()
    NOTICE = enum.auto()
    STATUS = enum.auto()
    CURVE = enum.auto()
    SAMPLES = enum.auto()
    SELECTED_RUN = enum.auto()
    QUEUE = enum.auto()
    UNFINISHED_BOX = enum.auto()
    UNFINISHED = enum.auto()
    RESUME = enum.auto()
    # The comparison of epochs
    COMPARISON_RUN = enum.auto()
    STRENGTHS = enum.auto()
    COMPARISON_PROMPTS = enum.auto()
    GENERATE_GRID = enum.auto()
    SEND_TO_PLOT = enum.auto()
    COMPARISON_NOTICE = enum.auto()
    GRID_PROGRESS = enum.auto()
    GRID_BOX = enum.auto()
    RECOMMENDATION = enum.auto()
    TAG = enum.auto()
    GRID = enum.auto()


class Role(enum.Enum):
    """What a part is to a setting, a group of settings or a captioner."""

    CONTROL = enum.auto()
    CONTROL_BOX = enum.auto()
    """The control and the problems below it."""
    PROBLEMS = enum.auto()
    GROUP = enum.auto()
    CAPTIONER = enum.auto()


@dataclass(frozen=True)
class PartOf:
    """A part that exists once for each `name`."""

    role: Role
    name: str


AnyPart = Part | PartOf


def control(setting: str) -> PartOf:
    """The component that holds a setting."""
    return PartOf(Role.CONTROL, setting)


def control_box(setting: str) -> PartOf:
    """A setting's control with the problems below it."""
    return PartOf(Role.CONTROL_BOX, setting)


def problems_of(setting: str) -> PartOf:
    """The problems below a setting's control."""
    return PartOf(Role.PROBLEMS, setting)


def group_box(group: str) -> PartOf:
    """The accordion of a group's further settings."""
    return PartOf(Role.GROUP, group)


def captioner_button(captioner: str) -> PartOf:
    """The button that captions all images with a captioner."""
    return PartOf(Role.CAPTIONER, captioner)
