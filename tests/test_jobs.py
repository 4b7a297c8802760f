"""The line of runs."""

from __future__ import annotations

import contextlib
import threading

import pytest

from lib_lora_train.jobs import Job, Jobs, State, read_line, unfinished_runs, wait_until_over
from lib_lora_train.training.events import Finished, Progress, Started
from tests.training.runs import LendingHost, tiny_config


class Gate(LendingHost):
    """Lends, but gives no turn before it is opened."""

    def __init__(self, lent) -> None:
        super().__init__(lent)
        self.open = threading.Event()

    @contextlib.contextmanager
    def turn(self, waiting=None):
        while not self.open.wait(0.02):
            waiting("The gate is shut.")
        yield


@pytest.fixture
def config(tmp_path, miniature):
    return lambda name="tiny", **settings: tiny_config(tmp_path, miniature, name=name, **settings)


@pytest.fixture
def gate(lent):
    return Gate(lent)


@pytest.fixture
def jobs(gate):
    made = Jobs(lambda model: gate)
    yield made
    gate.open.set()
    made.close()


def test_a_job_trains_in_its_own_thread_and_ends_finished(jobs, gate, config):
    gate.open.set()
    job = jobs.add(config())
    assert wait_until_over(job) == State.FINISHED
    assert job.folder.final_file.is_file()
    assert isinstance(job.events[-1], Finished)
    assert job.step == job.steps > 0


def test_the_settings_of_those_that_wait_are_on_disk_until_they_begin(gate, config, tmp_path):
    file = tmp_path / "waiting.json"
    before = []

    def make_host(model):
        before.append(list(read_line(file)))
        return gate

    jobs = Jobs(make_host, line_file=file)
    first, second, third = (jobs.add(config(name)) for name in ("one", "two", "three"))
    while first.state in (State.WAITING, State.PREPARING):
        pass
    assert before[0][0] == "one"  # a program that is killed while it prepares a run loses nothing
    jobs.stop("three")
    assert {name: kept.to_flat() for name, kept in read_line(file).items()} == {"two": second.config.to_flat()}
    gate.open.set()
    assert wait_until_over(second) == State.FINISHED
    assert not file.exists()
    assert third.state == State.STOPPED
    jobs.close()


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '[{"nme": "x"}]', '[{"rank": "x"}]'])
def test_a_damaged_list_of_those_that_wait_is_passed_over(tmp_path, text):
    file = tmp_path / "waiting.json"
    file.write_text(text)
    assert read_line(file) == {}


def test_what_keeps_it_waiting_is_said(jobs, gate, config):
    job = jobs.add(config())
    while job.state != State.PAUSED:
        assert not job.state.over
    assert job.message == "The gate is shut."
    gate.open.set()
    assert wait_until_over(job) == State.FINISHED
    assert job.message == ""


def test_others_wait_in_line_and_can_leave_it(jobs, gate, config):
    first, second, third = (jobs.add(config(name)) for name in ("one", "two", "three"))
    assert second.state == third.state == State.WAITING
    jobs.stop("two")
    gate.open.set()
    assert wait_until_over(third) == State.FINISHED
    assert first.state == State.FINISHED
    assert second.state == State.STOPPED
    assert not second.folder.path.exists()


def test_a_name_in_the_line_is_refused(jobs, config, complaint):
    jobs.add(config())
    assert "already" in complaint(jobs.add, config())


def test_bad_settings_never_enter_the_line(jobs, config, complaint):
    assert "rank" in complaint(jobs.add, config(rank=0))
    assert jobs.all() == []


def test_a_failure_is_told_in_words_and_the_next_one_runs(jobs, gate, config, tmp_path):
    gate.open.set()
    lost = jobs.add(config("lost", images=str(tmp_path / "nowhere")))
    assert wait_until_over(lost) == State.FAILED
    assert "nowhere" in lost.message
    assert wait_until_over(jobs.add(config("next"))) == State.FINISHED


def test_a_failed_name_can_be_used_again(jobs, gate, config, tmp_path):
    gate.open.set()
    wait_until_over(jobs.add(config(images=str(tmp_path / "nowhere"))))
    assert wait_until_over(jobs.add(config())) == State.FINISHED
    assert len(jobs.all()) == 1


def test_discarding_removes_all_that_the_run_wrote_and_nothing_else(jobs, gate, config):
    gate.open.set()
    job = jobs.add(config())
    wait_until_over(job)
    other = job.folder.adapters / "notes.txt"
    other.write_text("mine")
    jobs.discard("tiny")
    assert jobs.all() == []
    assert not job.folder.path.exists()
    assert list(job.folder.adapters.iterdir()) == [other]


def test_closing_stops_in_a_way_that_can_be_resumed(gate, config):
    jobs = Jobs(lambda model: gate)
    job, never_begun = jobs.add(config()), jobs.add(config("other"))
    while job.state != State.PAUSED:
        assert not job.state.over
    jobs.close()
    assert job.state == never_begun.state == State.STOPPED
    runs_dir = job.folder.path.parent
    assert [folder.config.run.name for folder in unfinished_runs(runs_dir)] == ["tiny"]
    gate.open.set()
    again = Jobs(lambda model: gate)
    resumed = again.resume(job.folder.path)
    assert wait_until_over(resumed) == State.FINISHED
    assert any(isinstance(event, Started) for event in resumed.events)
    assert unfinished_runs(runs_dir) == []
    again.close()


def test_a_complete_run_cannot_be_resumed(jobs, gate, config, complaint):
    gate.open.set()
    job = jobs.add(config())
    wait_until_over(job)
    assert "complete" in complaint(jobs.resume, job.folder.path)


def test_new_adapters_are_announced(gate, config):
    announced = []
    jobs = Jobs(lambda model: gate, lambda: announced.append(1))
    gate.open.set()
    wait_until_over(jobs.add(config(epochs=2)))
    assert len(announced) == 2
    jobs.close()


def test_an_unknown_name_is_said(jobs, complaint):
    assert "nobody" in complaint(jobs.pause, "nobody")


def test_a_run_that_goes_on_from_an_earlier_save_is_as_far_as_that(config):
    job = Job(config("again"))
    for event in (Started(0, 40, 4, 5, 1), Progress(10, 1, 0.1, 2.0), Started(4, 40, 4, 5, 1)):
        job.note(event)
    assert job.step == 4
    job.note(Progress(6, 1, 0.1, 2.0))
    assert job.step == 6


def test_a_run_is_over_only_when_the_checkpoint_is_given_back(lent, config):
    seen = []

    class Watched(LendingHost):
        @contextlib.contextmanager
        def lease(self):
            with super().lease() as given:
                yield given
            seen.append(jobs.get("tiny").state)

    jobs = Jobs(lambda model: Watched(lent))
    assert wait_until_over(jobs.add(config())) == State.FINISHED
    assert seen == [State.TRAINING]
    jobs.close()
