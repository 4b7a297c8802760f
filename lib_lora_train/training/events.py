"""What a run tells the world: the tab, the command line and the API all follow the same events."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened. Kept as a line of JSON in the run folder."""

    def to_json(self) -> str:
        return json.dumps({"event": type(self).__name__.lower(), **dataclasses.asdict(self)}, ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Event:
        """The event of a line; raises ValueError for a line that is none."""
        fields: dict[str, Any] = json.loads(line)
        kind = EVENTS.get(fields.pop("event", ""))
        if kind is None:
            raise ValueError(line)
        return kind(**fields)


@dataclass(frozen=True)
class Started(Event):
    """Training is about to begin, or to go on, at `step`."""

    step: int
    steps: int
    epochs: int
    images: int
    adapter_parameters: int


@dataclass(frozen=True)
class GeneratingClassImages(Event):
    """Images of the class are being drawn into `folder`, before anything is learned."""

    done: int
    images: int
    folder: str


@dataclass(frozen=True)
class Encoding(Event):
    """Images are being encoded before the first step."""

    done: int
    images: int


@dataclass(frozen=True)
class Progress(Event):
    """A slice of steps is done. `loss` is its mean; `rate` is steps per second over the last slices."""

    step: int
    epoch: int
    loss: float
    rate: float


@dataclass(frozen=True)
class Saved(Event):
    """An adapter file was written; `epoch` is 0 for one saved between epochs."""

    path: str
    step: int
    epoch: int


@dataclass(frozen=True)
class Validated(Event):
    """Loss on the held-out images with unchanging noise; epoch 0 is the base without the adapter.

    `parts` are the losses that `loss` is the mean of, one for each image, noise and timestep, in the same order every
    epoch: two epochs are compared part by part.
    """

    epoch: int
    loss: float
    parts: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sampled(Event):
    """Pictures drawn after an epoch, in the order of the prompts."""

    epoch: int
    paths: list[str]


@dataclass(frozen=True)
class EpochDone(Event):
    """All that follows an epoch's last step is done."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know that does not end the run."""

    message: str


@dataclass(frozen=True)
class Paused(Event):
    """The run waits at `step`: `reason` says for what."""

    step: int
    reason: str


@dataclass(frozen=True)
class Resumed(Event):
    """A run that waited goes on."""

    step: int


@dataclass(frozen=True)
class Stopped(Event):
    """The run was asked to stop; it can be resumed at `step`."""

    step: int


@dataclass(frozen=True)
class Finished(Event):
    """The run is complete; `path` is its last adapter."""

    path: str
    step: int


EVENTS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in Event.__subclasses__()}
