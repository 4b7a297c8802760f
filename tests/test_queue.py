"""The line of runs."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest

from lib_lora_train.queue import Job, RunQueue, State, read_queue, unfinished_runs, wait_until_over
from lib_lora_train.training.events import Finished, Progress, Started
from lib_lora_train.training.prepared_run import PreparedRun
from tests.training.runs import SharingHost, photos, tiny_config


class Gate(SharingHost):
    """Lends, but gives no turn before it is opened."""

    def __init__(self, checkpoint) -> None:
        super().__init__(checkpoint)
        self.open = threading.Event()

    @contextlib.contextmanager
    def gpu_slot(self, waiting=None):
        while not self.open.wait(0.02):
            waiting("The gate is shut.")
        yield


@pytest.fixture
def config(tmp_path, miniature):
    return lambda name="tiny", **settings: tiny_config(tmp_path, miniature, name=name, **settings)


@pytest.fixture
def gate(checkpoint):
    return Gate(checkpoint)


@pytest.fixture
def queue(gate):
    made = RunQueue(lambda model: gate)
    yield made
    gate.open.set()
    made.close()


def test_a_job_trains_in_its_own_thread_and_ends_finished(queue, gate, config):
    gate.open.set()
    job = queue.add(PreparedRun.read(config()))
    assert wait_until_over(job) == State.FINISHED
    assert job.folder.final_file.is_file()
    assert isinstance(job.events[-1], Finished)
    assert job.step == job.steps > 0


def test_the_settings_of_those_that_wait_are_on_disk_until_they_begin(gate, config, tmp_path):
    file = tmp_path / "waiting.json"
    before = []

    def make_host(model):
        before.append(list(read_queue(file)))
        return gate

    queue = RunQueue(make_host, queue_file=file)
    first, second, third = (queue.add(PreparedRun.read(config(name))) for name in ("one", "two", "three"))
    while first.state in (State.QUEUED, State.PREPARING):
        pass
    assert before[0][0] == "one"  # a program that is killed while it prepares a run loses nothing
    queue.stop("three")
    assert {name: kept.to_flat() for name, kept in read_queue(file).items()} == {"two": second.config.to_flat()}
    gate.open.set()
    assert wait_until_over(second) == State.FINISHED
    assert not file.exists()
    assert third.state == State.STOPPED
    queue.close()


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '[{"nme": "x"}]', '[{"rank": "x"}]'])
def test_a_damaged_list_of_those_that_wait_is_passed_over(tmp_path, text):
    file = tmp_path / "waiting.json"
    file.write_text(text)
    assert read_queue(file) == {}


def test_what_keeps_it_waiting_is_said(queue, gate, config):
    job = queue.add(PreparedRun.read(config()))
    while job.state != State.PAUSED:
        assert not job.state.is_done
    assert job.message == "The gate is shut."
    gate.open.set()
    assert wait_until_over(job) == State.FINISHED
    assert job.message == ""


def test_others_wait_in_line_and_can_leave_it(queue, gate, config):
    first, second, third = (queue.add(PreparedRun.read(config(name))) for name in ("one", "two", "three"))
    assert second.state == third.state == State.QUEUED
    queue.stop("two")
    gate.open.set()
    assert wait_until_over(third) == State.FINISHED
    assert first.state == State.FINISHED
    assert second.state == State.STOPPED
    assert not second.folder.path.exists()


def test_a_name_in_the_line_is_refused(queue, config, complaint):
    queue.add(PreparedRun.read(config()))
    assert "already" in complaint(queue.add, PreparedRun.read(config()))


def without_its_images(config, tmp_path, name):
    """A run whose images are deleted while it waits in the queue."""
    prepared = PreparedRun.read(config(name, dataset_folder=str(photos(tmp_path / "removed"))))
    shutil.rmtree(tmp_path / "removed")
    return prepared


def test_a_failure_is_told_in_words_and_the_next_one_runs(queue, gate, config, tmp_path):
    gate.open.set()
    lost = queue.add(without_its_images(config, tmp_path, "lost"))
    assert wait_until_over(lost) == State.FAILED
    assert "removed" in lost.message
    assert wait_until_over(queue.add(PreparedRun.read(config("next")))) == State.FINISHED


def test_a_failed_name_can_be_used_again(queue, gate, config, tmp_path):
    gate.open.set()
    wait_until_over(queue.add(without_its_images(config, tmp_path, "tiny")))
    assert wait_until_over(queue.add(PreparedRun.read(config()))) == State.FINISHED
    assert len(queue.all()) == 1


def test_discarding_removes_all_that_the_run_wrote_and_nothing_else(queue, gate, config):
    gate.open.set()
    job = queue.add(PreparedRun.read(config()))
    wait_until_over(job)
    other = job.folder.adapters / "notes.txt"
    other.write_text("mine")
    queue.discard("tiny")
    assert queue.all() == []
    assert not job.folder.path.exists()
    assert list(job.folder.adapters.iterdir()) == [other]


def test_closing_stops_in_a_way_that_can_be_resumed(gate, config):
    queue = RunQueue(lambda model: gate)
    job, never_begun = queue.add(PreparedRun.read(config())), queue.add(PreparedRun.read(config("other")))
    while job.state != State.PAUSED:
        assert not job.state.is_done
    queue.close()
    assert job.state == never_begun.state == State.STOPPED
    runs_dir = job.folder.path.parent
    assert [folder.config.run.name for folder in unfinished_runs(runs_dir)] == ["tiny"]
    gate.open.set()
    again = RunQueue(lambda model: gate)
    resumed = again.resume(job.folder.path)
    assert wait_until_over(resumed) == State.FINISHED
    assert any(isinstance(event, Started) for event in resumed.events)
    assert unfinished_runs(runs_dir) == []
    again.close()


def test_a_complete_run_cannot_be_resumed(queue, gate, config, complaint):
    gate.open.set()
    job = queue.add(PreparedRun.read(config()))
    wait_until_over(job)
    assert "complete" in complaint(queue.resume, job.folder.path)


def test_new_adapters_are_announced(gate, config):
    announced = []
    queue = RunQueue(lambda model: gate, lambda: announced.append(1))
    gate.open.set()
    wait_until_over(queue.add(PreparedRun.read(config(epochs=2))))
    assert len(announced) == 2
    queue.close()


def test_an_unknown_name_is_said(queue, complaint):
    assert "nobody" in complaint(queue.pause, "nobody")


def test_a_run_that_goes_on_from_an_earlier_save_is_as_far_as_that(config):
    job = Job(config("again"))
    for event in (Started(0, 40, 4, 5, 1), Progress(10, 1, 0.1, 2.0), Started(4, 40, 4, 5, 1)):
        job.record(event)
    assert job.step == 4
    job.record(Progress(6, 1, 0.1, 2.0))
    assert job.step == 6


def test_a_run_is_over_only_when_the_checkpoint_is_given_back(checkpoint, config):
    seen = []

    class Watched(SharingHost):
        @contextlib.contextmanager
        def lease(self):
            with super().lease() as given:
                yield given
            seen.append(queue.get("tiny").state)

    queue = RunQueue(lambda model: Watched(checkpoint))
    assert wait_until_over(queue.add(PreparedRun.read(config()))) == State.FINISHED
    assert seen == [State.TRAINING]
    queue.close()
