"""A run and the queue as HTML."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_lora_train.config import TrainConfig
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
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.ui.run_view import (
    STATE_WORDS,
    announcement,
    headline,
    queue_html,
    recommendation,
    samples,
    speed,
    status_html,
)
from tests.ui.views import job_of, text_of

STARTED = Started(0, 40, 4, 5, 1)


def test_without_a_run_the_status_says_so():
    assert text_of(status_html(None)).startswith("Nothing is training.")


def test_a_training_run_shows_its_figures():
    job = job_of(STARTED, Progress(10, 2, 0.1234, 2.0), Warned("Low on disk space."))
    text = text_of(status_html(job, "3.0 GB of 8.0 GB on the GPU"))
    for part in (
        "Training mycat",
        "Step 10 of 40",
        "Epoch 2 of 4",
        "Loss 0.1234",
        "Speed 2.0 it/s",
        "Time left about 15 s",
        "Memory in use 3.0 GB of 8.0 GB on the GPU",
        "Low on disk space.",
    ):
        assert part in text
    assert 'aria-valuenow="25"' in status_html(job)


def test_class_images_are_counted_while_they_are_generated():
    job = job_of(GeneratingClassImages(5, 20, "/runs/cache/class-images/dog"), state=State.PREPARING)
    assert headline(job) == (
        "Preparing",
        "Generating class images: 5 of 20. They are saved in /runs/cache/class-images/dog.",
    )
    assert 'aria-label="Class images generated"' in status_html(job)
    assert 'aria-valuenow="25"' in status_html(job)


def test_encoded_images_are_counted():
    job = job_of(Encoding("images", 3, 12), state=State.PREPARING)
    assert headline(job) == ("Preparing", "Encoding images: 3 of 12.")


def test_a_waiting_run_says_why():
    waiting = job_of(STARTED, Paused(0, "Another checkpoint is loaded."))
    assert headline(waiting) == ("Waiting", "Another checkpoint is loaded.")


def test_a_paused_run_finishes_its_current_steps_first():
    job = job_of(STARTED)
    job.control.pause()
    assert headline(job).word == "Pausing"
    job.record(Paused(0, "Paused by the user."))
    assert headline(job).word == "Paused"
    assert "Paused : mycat" in text_of(status_html(job))


def test_a_stopped_run_says_how_to_continue():
    assert "Unfinished runs" in headline(job_of(STARTED, state=State.STOPPED)).detail


def test_a_failed_run_shows_its_message_as_an_error():
    job = job_of(STARTED, state=State.FAILED)
    job.message = "The disk is full."
    assert '<p class="lora_train_error">The disk is full.</p>' in status_html(job)


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_word(state):
    assert headline(job_of(STARTED, state=state)).word in STATE_WORDS


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
    assert "Tag: <lora:mycat-000002:0.8>" in text_of(status_html(job))


@pytest.fixture
def sample_folder(tmp_path, monkeypatch):
    """The folder of the run's sample images."""
    folder = tmp_path / "runs" / "mycat" / "samples"
    folder.mkdir(parents=True)
    monkeypatch.setattr(Job, "folder", RunFolder(TrainConfig(), folder.parent, tmp_path / "Lora"))
    return folder


def test_sample_images_are_newest_first_with_their_prompts(sample_folder):
    paths: list[list[str]] = []
    for epoch in (1, 2):
        paths.append([str(sample_folder / f"{epoch}-{i}.png") for i in (1, 2)])
        for path in paths[-1]:
            Path(path).touch()
    job = job_of(Sampled(1, paths[0], ["a cat", "a dog"]), Sampled(2, paths[1], ["a bird", "a dog"]))
    assert samples(job) == [
        (paths[1][0], "Epoch 2: a bird"),
        (paths[1][1], "Epoch 2: a dog"),
        (paths[0][0], "Epoch 1: a cat"),
        (paths[0][1], "Epoch 1: a dog"),
    ]


def test_a_log_cannot_show_a_file_outside_the_sample_folder(sample_folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.touch()
    (sample_folder / "link.png").symlink_to(secret)
    paths = [str(secret), "../secret.png", str(sample_folder / "link.png"), "..", ""]
    assert samples(job_of(Sampled(1, paths, ["a cat"] * len(paths)))) == []


def test_the_announcement_changes_with_epochs_and_not_with_steps():
    job = job_of(STARTED, Progress(10, 2, 0.1, 2.0))
    before = announcement(job)
    job.record(Progress(11, 2, 0.1, 2.0))
    assert announcement(job) == before == "mycat: training, epoch 2"
    job.record(Progress(21, 3, 0.1, 2.0))
    assert announcement(job) == "mycat: training, epoch 3"


def test_the_queue_lists_the_newest_run_first():
    jobs = [job_of(STARTED, name="one", state=State.FINISHED), job_of(name="two")]
    text = text_of(queue_html(jobs))
    assert text.endswith("Run State Steps Message two Queued one Finished 0 of 40")
    assert queue_html([]) == ""


def test_slow_steps_are_shown_in_seconds_per_step():
    assert (speed(2.5), speed(0.25)) == ("2.5 it/s", "4.0 s/it")
