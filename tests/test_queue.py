"""The queue of runs."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest

from lib_lora_train.hosts.base import keep_waiting
from lib_lora_train.queue import Job, RunQueue, State, read_queue, unfinished_runs, wait_until_over, write_queue
from lib_lora_train.training.events import Finished, Progress, Started
from lib_lora_train.training.prepared_run import PreparedRun
from tests.training.runs import SharingHost, photos, tiny_config


class BlockedHost(SharingHost):
    """Gives no GPU slot until `unblocked` is set."""

    def __init__(self, checkpoint) -> None:
        super().__init__(checkpoint)
        self.unblocked = threading.Event()

    @contextlib.contextmanager
    def gpu_slot(self, on_wait=keep_waiting):
        while not self.unblocked.wait(0.02):
            on_wait("The host is blocked.")
        yield


@pytest.fixture
def config(tmp_path, miniature):
    return lambda name="tiny", **settings: tiny_config(tmp_path, miniature, name=name, **settings)


@pytest.fixture
def host(checkpoint):
    return BlockedHost(checkpoint)


@pytest.fixture
def queue(host):
    queue = RunQueue(lambda model: host)
    yield queue
    host.unblocked.set()
    queue.close()


def test_a_job_trains_in_its_own_thread_and_finishes(queue, host, config):
    host.unblocked.set()
    job = queue.add(PreparedRun.read(config()))
    assert wait_until_over(job) == State.FINISHED
    assert job.folder.final_file.is_file()
    assert isinstance(job.events[-1], Finished)
    assert job.step == job.steps > 0


def test_settings_of_queued_runs_are_on_disk_until_they_start(host, config, tmp_path):
    file = tmp_path / "queue.json"
    queued_before = []

    def make_host(model):
        queued_before.append(list(read_queue(file)))
        return host

    queue = RunQueue(make_host, queue_file=file)
    first, second, third = (queue.add(PreparedRun.read(config(name))) for name in ("one", "two", "three"))
    while first.state in (State.QUEUED, State.PREPARING):
        pass
    assert queued_before[0][0] == "one"  # a process that is killed while preparing a run does not lose it
    queue.stop("three")
    assert {name: config.to_flat() for name, config in read_queue(file).items()} == {"two": second.config.to_flat()}
    host.unblocked.set()
    assert wait_until_over(second) == State.FINISHED
    assert not file.exists()
    assert third.state == State.STOPPED
    queue.close()


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '[{"nme": "x"}]', '[{"rank": "x"}]'])
def test_a_damaged_queue_file_is_ignored(tmp_path, text):
    file = tmp_path / "queue.json"
    file.write_text(text)
    assert read_queue(file) == {}


def test_a_waiting_job_reports_the_reason(queue, host, config):
    job = queue.add(PreparedRun.read(config()))
    while job.state != State.PAUSED:
        assert not job.state.is_done
    assert job.message == "The host is blocked."
    host.unblocked.set()
    assert wait_until_over(job) == State.FINISHED
    assert job.message == ""


def test_queued_runs_wait_and_can_be_stopped(queue, host, config):
    first, second, third = (queue.add(PreparedRun.read(config(name))) for name in ("one", "two", "three"))
    assert second.state == third.state == State.QUEUED
    queue.stop("two")
    host.unblocked.set()
    assert wait_until_over(third) == State.FINISHED
    assert first.state == State.FINISHED
    assert second.state == State.STOPPED
    assert not second.folder.path.exists()


def test_the_name_of_a_queued_run_is_refused(queue, config, complaint):
    queue.add(PreparedRun.read(config()))
    assert "already" in complaint(queue.add, PreparedRun.read(config()))


def run_without_images(config, tmp_path, name):
    """A run whose images are deleted while it waits in the queue."""
    prepared = PreparedRun.read(config(name, dataset_folder=str(photos(tmp_path / "removed"))))
    shutil.rmtree(tmp_path / "removed")
    return prepared


def test_a_failed_run_has_a_message_and_the_next_run_starts(queue, host, config, tmp_path):
    host.unblocked.set()
    failed = queue.add(run_without_images(config, tmp_path, "failed"))
    assert wait_until_over(failed) == State.FAILED
    assert "removed" in failed.message
    assert wait_until_over(queue.add(PreparedRun.read(config("next")))) == State.FINISHED


def test_the_name_of_a_failed_run_can_be_used_again(queue, host, config, tmp_path):
    host.unblocked.set()
    wait_until_over(queue.add(run_without_images(config, tmp_path, "tiny")))
    assert wait_until_over(queue.add(PreparedRun.read(config()))) == State.FINISHED
    assert len(queue.all()) == 1


def test_discard_removes_the_files_of_the_run_only(queue, host, config):
    host.unblocked.set()
    job = queue.add(PreparedRun.read(config()))
    wait_until_over(job)
    other = job.folder.adapters / "notes.txt"
    other.write_text("mine")
    queue.discard("tiny")
    assert queue.all() == []
    assert not job.folder.path.exists()
    assert list(job.folder.adapters.iterdir()) == [other]


def test_a_run_stopped_by_close_can_be_resumed(host, config):
    queue = RunQueue(lambda model: host)
    job, never_started = queue.add(PreparedRun.read(config())), queue.add(PreparedRun.read(config("other")))
    while job.state != State.PAUSED:
        assert not job.state.is_done
    queue.close()
    assert job.state == never_started.state == State.STOPPED
    runs_dir = job.folder.path.parent
    assert [folder.config.run.name for folder in unfinished_runs(runs_dir)] == ["tiny"]
    host.unblocked.set()
    new_queue = RunQueue(lambda model: host)
    resumed = new_queue.resume(job.folder.path)
    assert wait_until_over(resumed) == State.FINISHED
    assert any(isinstance(event, Started) for event in resumed.events)
    assert unfinished_runs(runs_dir) == []
    new_queue.close()


def test_a_complete_run_cannot_be_resumed(queue, host, config, complaint):
    host.unblocked.set()
    job = queue.add(PreparedRun.read(config()))
    wait_until_over(job)
    assert "complete" in complaint(queue.resume, job.folder.path)


def test_new_adapters_are_announced(host, config):
    announced = []
    queue = RunQueue(lambda model: host, lambda: announced.append(1))
    host.unblocked.set()
    wait_until_over(queue.add(PreparedRun.read(config(epochs=2))))
    assert len(announced) == 2
    queue.close()


def test_an_unknown_name_is_reported(queue, complaint):
    assert "nobody" in complaint(queue.pause, "nobody")


def test_a_resumed_job_starts_at_the_step_of_its_saved_state(config):
    job = Job(config("resumed"))
    for event in (Started(0, 40, 4, 5, 1), Progress(10, 1, 0.1, 2.0), Started(4, 40, 4, 5, 1)):
        job.record(event)
    assert job.step == 4
    job.record(Progress(6, 1, 0.1, 2.0))
    assert job.step == 6


def test_a_job_is_over_only_after_the_checkpoint_is_released(checkpoint, config):
    states = []

    class ObservedHost(SharingHost):
        @contextlib.contextmanager
        def lease(self):
            with super().lease() as leased:
                yield leased
            states.append(queue.get("tiny").state)

    queue = RunQueue(lambda model: ObservedHost(checkpoint))
    assert wait_until_over(queue.add(PreparedRun.read(config()))) == State.FINISHED
    assert states == [State.TRAINING]
    queue.close()


def test_runs_left_by_the_last_start_stay_on_disk_until_they_are_resumed(checkpoint, config, tmp_path):
    file = tmp_path / "queue.json"
    write_queue(file, [config("left"), config("left too")])
    queue = RunQueue(lambda model: SharingHost(checkpoint), queue_file=file)
    assert wait_until_over(queue.add(PreparedRun.read(config("another")))) == State.FINISHED
    assert list(read_queue(file)) == queue.interrupted() == ["left", "left too"]
    assert wait_until_over(queue.resume_interrupted("left")) == State.FINISHED
    assert list(read_queue(file)) == queue.interrupted() == ["left too"]
    queue.close()


def test_a_run_that_is_being_prepared_stays_on_disk_when_another_is_added(host, config, tmp_path):
    file, preparing, prepared = tmp_path / "queue.json", threading.Event(), threading.Event()

    def make_host(model):
        preparing.set()
        prepared.wait(20)
        return host

    queue = RunQueue(make_host, queue_file=file)
    queue.add(PreparedRun.read(config("one")))
    assert preparing.wait(20)
    second = queue.add(PreparedRun.read(config("two")))
    assert list(read_queue(file)) == ["one", "two"]
    prepared.set()
    host.unblocked.set()
    assert wait_until_over(second) == State.FINISHED
    queue.close()


def test_closing_keeps_the_runs_that_wait(host, config, tmp_path):
    file = tmp_path / "queue.json"
    queue = RunQueue(lambda model: host, queue_file=file)
    running = queue.add(PreparedRun.read(config("running")))
    queue.add(PreparedRun.read(config("waiting")))
    while running.state != State.PAUSED:
        assert not running.state.is_done
    queue.close()
    assert "waiting" in read_queue(file)


def test_an_unexpected_error_is_the_message_of_its_run_and_the_next_one_trains(checkpoint, config):
    class BrokenHost(SharingHost):
        def describe(self):
            raise RuntimeError("a fault of the program")

    hosts = [BrokenHost(checkpoint), SharingHost(checkpoint)]
    queue = RunQueue(lambda model: hosts.pop(0))
    broken, other = (queue.add(PreparedRun.read(config(name))) for name in ("broken", "other"))
    assert wait_until_over(broken, seconds=20) == State.FAILED
    assert "RuntimeError: a fault of the program" in broken.message
    assert wait_until_over(other, seconds=20) == State.FINISHED
    queue.close()


def test_a_run_that_is_discarded_while_it_trains_leaves_nothing(queue, host, config):
    job = queue.add(PreparedRun.read(config()))
    while job.state != State.PAUSED:
        assert not job.state.is_done
    queue.discard("tiny")
    host.unblocked.set()
    assert wait_until_over(queue.add(PreparedRun.read(config("next")))) == State.FINISHED
    assert [other.name for other in queue.all()] == ["next"]
    assert not job.folder.path.exists()
    assert not job.folder.adapters.exists()
