"""Plans, runs and messages as HTML: complete, and with nothing in them that a name could smuggle in."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lib_lora_train.config import Problem, TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.queue import Job, State
from lib_lora_train.training.events import (
    Encoding,
    Finished,
    GeneratingClassImages,
    Paused,
    Progress,
    Sampled,
    Saved,
    Started,
    Validated,
    Warned,
)
from lib_lora_train.training.memory import MemoryEstimate
from lib_lora_train.training.plan import Plan
from lib_lora_train.ui.plan_view import blocked_html, buckets_text, plan_html
from lib_lora_train.ui.run_view import (
    announcement,
    headline,
    poll_status_html,
    previews,
    queue_html,
    recommendation,
    speed,
    status_html,
)
from lib_lora_train.ui.text import escaped, notice, problem_note

UNKIND = """<img src=x onerror="alert('1')">"""


def text_of(html: str) -> str:
    """The words of well-formed HTML, with single blanks."""
    return " ".join(" ".join(ElementTree.fromstring(f"<div>{html}</div>").itertext()).split())


def job_of(*events: object, name: str = "mycat", state: State | None = None) -> Job:
    job = Job(TrainConfig.from_flat({"name": name, "epochs": 4}))
    for event in events:
        job.record(event)
    job.state = state or job.state
    return job


def a_plan(**changes: object) -> Plan:
    facts: dict = {
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
    return Plan(**{**facts, **changes})


def test_what_is_escaped_survives_as_text_and_as_an_attribute():
    element = ElementTree.fromstring(f'<p title="{escaped(UNKIND)}">{escaped(UNKIND)}</p>')
    assert element.text == element.attrib["title"] == UNKIND
    assert list(element) == []


@pytest.mark.parametrize(
    "html",
    [
        notice(UNKIND, bad=True),
        problem_note([Problem("name", UNKIND)], hint=False),
        plan_html(a_plan(checkpoint=UNKIND, warnings=[UNKIND])),
        blocked_html([Problem("", UNKIND), Problem("seed", UNKIND)], set()),
        status_html(job_of(Started(0, 8, 4, 5, 1), Warned(UNKIND), name=UNKIND)),
        queue_html([job_of(name=UNKIND)]),
        poll_status_html({"say": UNKIND}),
    ],
)
def test_names_and_messages_are_never_markup(html):
    root = ElementTree.fromstring(f"<div>{html}</div>")
    assert "img" not in {element.tag for element in root.iter()}
    assert UNKIND in "".join(root.itertext()) + "".join(
        value for element in root.iter() for value in element.attrib.values()
    )


def test_a_plan_says_all_before_it_starts():
    text = text_of(plan_html(a_plan()))
    for part in (
        "9 to learn, 1 held out; 150 shown per epoch",
        "512x512 (150)",
        "1,500 in 10 epochs",
        "about 12 min",
        "about 1.5 GB of 8.0 GB free",
        "10 of 2.0 MB",
        "shapes, on cuda:0 in float16",
    ):
        assert part in text


def test_a_time_that_is_not_known_yet_is_said_to_be_measured():
    assert "being measured" in plan_html(a_plan(seconds_per_step=None), measuring=True)
    assert "being measured" not in plan_html(a_plan(seconds_per_step=None))


def test_many_buckets_are_counted():
    buckets = {(512 + 64 * i, 512): 10 - i for i in range(6)}
    assert buckets_text(buckets) == "512x512 (10), 576x512 (9), 640x512 (8), 704x512 (7) and 2 more"


def test_an_empty_form_is_not_scolded():
    html = blocked_html([Problem("name", "is empty."), Problem("images", "is empty.")], {"name", "images"})
    assert "lora_train_bad" not in html
    assert "once it has a name and images" in html


def test_problems_of_hidden_settings_are_told_with_their_label():
    text = text_of(
        blocked_html([Problem("rank", "is 0."), Problem("seed", "is -1, below the least, 0. Raise it.")], {"rank"})
    )
    assert text == "1 setting to mend; see the red text beside it. Seed is -1, below the least, 0. Raise it."


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("is 0. Raise it.", "This is 0. Raise it."),
        ("the folder x is not there.", "The folder x is not there."),
        ("'a/b' cannot be.", "'a/b' cannot be."),
    ],
)
def test_a_problem_stands_under_its_field_as_a_sentence(message, shown):
    assert text_of(problem_note([Problem("rank", message)], hint=False)) == shown


def test_a_run_that_trains_shows_its_figures():
    job = job_of(Started(0, 40, 4, 5, 1), Progress(10, 2, 0.1234, 2.0))
    text = text_of(status_html(job, "3.0 GB of 8.0 GB on the GPU"))
    for part in ("mycat trains.", "10 of 40", "2 of 4", "0.1234", "2.0 it/s", "about 15 s", "3.0 GB of 8.0 GB"):
        assert part in text
    assert 'aria-valuenow="25"' in status_html(job)


def test_images_of_the_class_that_are_drawn_first_are_counted_and_their_place_is_told():
    drawing = job_of(GeneratingClassImages(5, 20, "/runs/cache/class-images/dog"), state=State.PREPARING)
    assert headline(drawing) == "draws images of the class: 5 of 20. They are in /runs/cache/class-images/dog."
    page = status_html(drawing)
    assert 'aria-label="Class images drawn"' in page
    assert 'aria-valuenow="25"' in page


def test_what_a_run_waits_for_is_said():
    encoding = job_of(Encoding("images", 3, 12), state=State.PREPARING)
    assert headline(encoding) == "encodes the images: 3 of 12."
    waiting = job_of(Started(0, 40, 4, 5, 1), Paused(0, "Another checkpoint is loaded."))
    assert headline(waiting) == "waits. Another checkpoint is loaded."
    paused = job_of(Started(0, 40, 4, 5, 1))
    paused.control.pause()
    assert headline(paused) == "pauses after the present steps."


def test_a_finished_run_names_its_best_epoch_and_the_tag(tmp_path):
    files = [Saved(str(tmp_path / f"mycat-{epoch:06d}.safetensors"), 10 * epoch, epoch) for epoch in (1, 2)]
    last = tmp_path / "mycat.safetensors"
    job = job_of(
        Started(0, 30, 3, 5, 1),
        Validated(0, 0.2),
        *files,
        Validated(1, 0.15),
        Validated(2, 0.1),
        Saved(str(last), 30, 3),
        Validated(3, 0.12),
        Finished(str(last), 30),
        state=State.FINISHED,
    )
    best = recommendation(job)
    assert best is not None
    assert best.epoch == 2
    assert "<lora:mycat-000002:0.8>" in text_of(status_html(job))


def test_previews_are_newest_first_with_their_prompts(tmp_path):
    paths: list[list[str]] = []
    for epoch in (1, 2):
        paths.append([str(tmp_path / f"{epoch}-{i}.png") for i in (1, 2)])
        for path in paths[-1]:
            Path(path).touch()
    job = job_of(*(Sampled(epoch, paths[epoch - 1], ["a cat", "a dog"]) for epoch in (1, 2)))
    assert previews(job, ["a cat", "a dog"]) == [
        (paths[1][0], "Epoch 2: a cat"),
        (paths[1][1], "Epoch 2: a dog"),
        (paths[0][0], "Epoch 1: a cat"),
        (paths[0][1], "Epoch 1: a dog"),
    ]


def test_a_screen_reader_hears_of_epochs_and_not_of_steps():
    job = job_of(Started(0, 40, 4, 5, 1), Progress(10, 2, 0.1, 2.0))
    before = announcement(job)
    job.record(Progress(11, 2, 0.1, 2.0))
    assert announcement(job) == before == "mycat: training, epoch 2"
    job.record(Progress(21, 3, 0.1, 2.0))
    assert announcement(job) != before


def test_slow_steps_are_told_in_seconds():
    assert (speed(2.5), speed(0.25)) == ("2.5 it/s", "4.0 s/it")
