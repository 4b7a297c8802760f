"""Plans, jobs and the text of HTML for the tests of the views."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.queue import Job, State
from lib_lora_train.training.events import Event
from lib_lora_train.training.memory import MemoryEstimate
from lib_lora_train.training.plan import Plan


def text_of(html: str) -> str:
    """The text of well-formed HTML, with single spaces."""
    return " ".join(" ".join(ElementTree.fromstring(f"<div>{html}</div>").itertext()).split())


def job_of(*events: Event, name: str = "mycat", state: State | None = None) -> Job:
    """A job of four epochs with these events."""
    job = Job(TrainConfig.from_flat({"name": name, "epochs": 4}))
    for event in events:
        job.record(event)
    job.state = state or job.state
    return job


def a_plan(**changes: Any) -> Plan:
    """A plan of 1500 steps."""
    values: dict[str, Any] = {
        "name": "mycat",
        "checkpoint": "shapes",
        "device": "cuda:0 in float16",
        "images": 9,
        "shown_per_epoch": 150,
        "regularization_images": 0,
        "validation_images": 1,
        "buckets": {Size(512, 512): 150},
        "epochs": 10,
        "steps": 1500,
        "seconds_per_step": 0.5,
        "memory": MemoryEstimate(2**30, 2**20, 2**29, 1000),
        "memory_free": 8 * 2**30,
        "file_bytes": 2**21,
        "files": 10,
        "folder": "/models",
        "warnings": [],
    }
    return Plan(**{**values, **changes})
