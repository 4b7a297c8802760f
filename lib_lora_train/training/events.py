"""The events of a run. The tab, the command line and the API all follow the same ones."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened. Each event is a line of JSON in the run's folder."""

    def to_json(self) -> str:
        return json.dumps({"event": type(self).__name__.lower(), **dataclasses.asdict(self)}, ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Event:
        """The event in a line of JSON.

        Raises:
            ValueError: when the line is not an event.
        """
        fields: dict[str, Any] = json.loads(line)
        kind = EVENTS.get(fields.pop("event", ""))
        if kind is None:
            raise ValueError(line)
        return kind(**fields)


@dataclass(frozen=True)
class Started(Event):
    """Training begins, or continues, after `step` steps of `steps`."""

    step: int
    steps: int
    epochs: int
    images: int
    adapter_parameters: int


@dataclass(frozen=True)
class GeneratingClassImages(Event):
    """Class images are generated into `folder`, before training."""

    done: int
    total: int
    folder: str


@dataclass(frozen=True)
class Encoding(Event):
    """Images or captions are encoded, before training. `what` is "images" or "captions"."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress(Event):
    """A slice of steps is done. `loss` is its mean; `rate` is steps per second, smoothed over the last slices."""

    step: int
    epoch: int
    loss: float
    rate: float


@dataclass(frozen=True)
class Saved(Event):
    """An adapter file was written. `epoch` is 0 for a file saved between epochs."""

    path: str
    step: int
    epoch: int


@dataclass(frozen=True)
class Validated(Event):
    """The loss on the validation images, always with the same noise. Epoch 0 is the model without the adapter.

    `loss` is the mean of `parts`: one loss per image, noise and timestep, in the same order every epoch, so that two
    epochs can be compared part by part.
    """

    epoch: int
    loss: float
    parts: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sampled(Event):
    """Sample images were generated after an epoch: one path per prompt."""

    epoch: int
    paths: list[str]
    prompts: list[str]


@dataclass(frozen=True)
class EpochDone(Event):
    """An epoch is trained, saved, validated and sampled."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Warned(Event):
    """A warning for the user. The run continues."""

    message: str


@dataclass(frozen=True)
class Paused(Event):
    """The run waits after `step` steps, for `reason`."""

    step: int
    reason: str


@dataclass(frozen=True)
class Resumed(Event):
    """A paused run continues."""

    step: int


@dataclass(frozen=True)
class Stopped(Event):
    """The run was stopped by request. It can be resumed at `step`."""

    step: int


@dataclass(frozen=True)
class Finished(Event):
    """The run is complete. `path` is its last adapter file."""

    path: str
    step: int


EVENTS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in Event.__subclasses__()}
