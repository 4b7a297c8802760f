"""The service that the tab and the API share."""

from __future__ import annotations

import contextlib
import dataclasses
import threading

import pytest
import safetensors
import safetensors.torch
from PIL import Image

from lib_lora_train.config import CompareConfig
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.best_epoch import recommend
from lib_lora_train.hosts.base import keep_waiting
from lib_lora_train.model.family import SD1
from lib_lora_train.queue import State, wait_until_over
from lib_lora_train.service import TrainingService
from lib_lora_train.training.run_folder import RunFolder
from tests.environments import webui_environment
from tests.training.runs import SharingHost, photos

SETTINGS = {
    "name": "cat",
    "dataset_folder": "cats",
    "resolution": 64,
    "rank": 2,
    "repeats": 1,
    "epochs": 2,
    "sample_every_n_epochs": 0,
    "validation_images": 1,
    "sample_prompts": ["a cat"],
    "sample_sampler": "euler",
    "sample_steps": 3,
}


@pytest.fixture
def environment(checkpoint, tmp_path):
    made = webui_environment(checkpoint, tmp_path)
    photos(made.datasets_dir / "cats")
    return made


@pytest.fixture
def service(environment):
    service = TrainingService(environment)
    yield service
    service.queue.close()


def test_the_environment_sets_folders_and_checkpoint(service, environment, tmp_path):
    config = service.config(
        {**SETTINGS, "lora_dir": str(tmp_path / "elsewhere"), "runs_dir": "/", "checkpoint": "/etc/passwd"}
    )
    assert config.run.lora_dir == str(environment.lora_dir)
    assert config.run.runs_dir == str(environment.runs_dir)
    assert config.model.checkpoint == ""


def test_every_problem_names_its_field(service):
    assert {problem.field for problem in service.problems({**SETTINGS, "name": "a/b", "rank": 0})} == {"name", "rank"}
    assert [problem.field for problem in service.problems({**SETTINGS, "dataset_folder": ""})] == ["dataset_folder"]
    assert [problem.field for problem in service.problems({**SETTINGS, "dataset_folder": "dogs"})] == ["dataset_folder"]
    assert service.problems(SETTINGS) == []


def test_all_problems_are_reported_at_once(service, complaint):
    invalid = {**SETTINGS, "name": "a/b", "rank": 0, "dataset_folder": "dogs", "regularization_folder": "birds"}
    for action in (service.plan, service.start):
        fields = [line.split(":")[0] for line in complaint(action, invalid).splitlines()]
        assert sorted(fields) == ["dataset_folder", "name", "rank", "regularization_folder"]
    assert {
        problem.field for problem in service.problems({**SETTINGS, "name": "", "dataset_folder": "", "rank": 0})
    } == {"name", "dataset_folder", "rank"}


@pytest.mark.parametrize("path", ["../../secret.safetensors", "/etc/secret.safetensors"])
def test_continue_from_refuses_an_adapter_outside_the_lora_folder(service, path):
    assert [problem.field for problem in service.problems({**SETTINGS, "continue_from": path})] == ["continue_from"]


def test_continue_from_accepts_an_adapter_in_the_lora_folder(service, environment):
    wait_until_over(service.start(SETTINGS))
    config = service.config({**SETTINGS, "name": "more", "continue_from": "cat/cat.safetensors"})
    assert config.adapter.continue_from == str(environment.lora_dir / "cat" / "cat.safetensors")


def test_continue_from_opens_the_file_that_was_checked(service, environment, tmp_path, monkeypatch):
    """A relative path is checked in the dataset folder, so it must not be opened in the working folder."""
    (tmp_path / "elsewhere").mkdir()
    for folder in (environment.datasets_dir, tmp_path / "elsewhere"):
        (folder / "x.safetensors").write_text("x")
    (environment.datasets_dir / "link.safetensors").symlink_to(tmp_path / "elsewhere" / "x.safetensors")
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = service.config({**SETTINGS, "continue_from": "x.safetensors"})
    assert config.adapter.continue_from == str(environment.datasets_dir / "x.safetensors")
    assert [p.field for p in service.problems({**SETTINGS, "continue_from": "link.safetensors"})] == ["continue_from"]


def test_runs_are_listed_with_their_epochs_and_the_recommended_one(service):
    assert service.runs() == []
    wait_until_over(service.start(SETTINGS))
    (run,) = service.runs()
    assert (run.name, run.complete, [point.epoch for point in run.points]) == ("cat", True, [1, 2])
    assert run.recommendation.epoch == recommend(run.validated, [1, 2]).epoch


def test_a_run_is_read_again_only_after_a_change(service, monkeypatch):
    wait_until_over(service.start(SETTINGS))
    (first,) = service.runs()
    read = []
    monkeypatch.setattr(RunFolder, "points", lambda folder: read.append(folder) or [])
    assert service.runs() == [first]
    assert read == []
    (first.folder.adapters / "cat-000001.safetensors").unlink()
    assert service.runs()[0].points == []
    assert len(read) == 1


def test_listing_runs_reads_no_weights(service, monkeypatch):
    wait_until_over(service.start(SETTINGS))

    def refuse(*arguments, **named):
        raise AssertionError("weights were read")

    for reader in ("load", "load_file", "safe_open"):
        monkeypatch.setattr(safetensors.torch, reader, refuse)
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    assert [point.epoch for point in service.run("cat").points] == [1, 2]


def test_a_queued_run_can_be_resumed_after_a_restart(environment, checkpoint, service):
    unblocked = threading.Event()

    class BlockedHost(SharingHost):
        @contextlib.contextmanager
        def gpu_slot(self, on_wait=keep_waiting):
            while not unblocked.wait(0.02):
                on_wait("Not yet.")
            yield

    first = TrainingService(dataclasses.replace(environment, make_host=lambda model: BlockedHost(checkpoint)))
    first.start(SETTINGS)
    first.start({**SETTINGS, "name": "dog"})
    first.queue.close()
    unblocked.set()

    second = TrainingService(environment)
    assert second.unfinished()[0] == "dog"
    assert wait_until_over(second.resume("dog")) == State.FINISHED
    assert "dog" not in second.unfinished()
    assert TrainingService(environment).queue.interrupted() == []
    second.queue.close()


def test_compare_calls_txt2img_with_the_adapter_tag(environment):
    requests = []

    def txt2img(request):
        requests.append(request)
        return Image.new("RGB", (64, 64))

    service = TrainingService(dataclasses.replace(environment, txt2img=txt2img))
    wait_until_over(service.start(SETTINGS))
    comparison = service.compare("cat", CompareConfig(strengths=[0.0, 0.75]))
    prompts = [request.prompt for request in requests]
    assert prompts == ["a cat", "a cat <lora:cat-000001:0.75>", "a cat <lora:cat:0.75>"]
    assert {(request.sampler, request.steps, request.width) for request in requests} == {("euler", 3, 64)}
    assert comparison.grid.is_file()
    service.queue.close()


def test_compare_refuses_a_second_grid_at_the_same_time(environment, complaint):
    def txt2img(request):
        assert "being generated" in complaint(service.compare, "cat", CompareConfig())
        return Image.new("RGB", (64, 64))

    service = TrainingService(dataclasses.replace(environment, txt2img=txt2img))
    wait_until_over(service.start(SETTINGS))
    service.compare("cat", CompareConfig(strengths=[1.0]))
    service.queue.close()


@pytest.mark.parametrize("name", ["../cats", "cat/../cat", "", "."])
def test_a_run_is_found_by_its_exact_name_only(service, complaint, name):
    wait_until_over(service.start(SETTINGS))
    assert "no run" in complaint(service.run, name)


def test_captions_are_written_by_the_selected_captioner(environment, complaint):
    @contextlib.contextmanager
    def captioner():
        yield lambda image: f"{image.width} wide"

    service = TrainingService(dataclasses.replace(environment, captioners={"width": captioner}))
    folder = environment.datasets_dir / "cats"
    (folder / "0.txt").unlink()
    report = service.caption("cats", "width")
    assert [path.name for path in report.written] == ["0.txt"]
    assert (folder / "0.txt").read_text(encoding="utf-8").strip() == "64 wide"
    assert "width" in complaint(service.caption, "cats", "unknown")
    assert "images" in complaint(service.caption, "../..", "width")


def test_start_asks_again_after_another_kind_of_checkpoint_was_loaded(environment, checkpoint, complaint):
    loaded = [checkpoint]
    service = TrainingService(dataclasses.replace(environment, make_host=lambda model: SharingHost(loaded[-1])))
    service.plan(SETTINGS)
    loaded.append(
        dataclasses.replace(checkpoint, name="other", family=dataclasses.replace(SD1, name="new", title="Newer"))
    )
    text = complaint(service.start, SETTINGS)
    assert "made for miniature (Stable Diffusion 1.x), and other (Newer) is loaded now" in text
    assert "Press Train again" in text
    assert service.start(SETTINGS).name == "cat"
    service.queue.close()


def test_start_accepts_another_checkpoint_of_the_same_kind(environment, checkpoint):
    loaded = [checkpoint]
    service = TrainingService(dataclasses.replace(environment, make_host=lambda model: SharingHost(loaded[-1])))
    service.plan(SETTINGS)
    loaded.append(dataclasses.replace(checkpoint, name="other"))
    assert service.start(SETTINGS).name == "cat"
    service.queue.close()


def test_a_plan_follows_the_images_in_its_folder(service, environment):
    before = service.plan(SETTINGS).images
    photos(environment.datasets_dir / "cats", 6)
    assert service.plan(SETTINGS).images == before + 2


@pytest.mark.parametrize("changed", [{"gradient_checkpointing": True}, {"batch_size": 2}, {"rank": 4}])
def test_a_measured_time_is_not_shown_for_settings_that_take_another(service, changed):
    assert service.plan(SETTINGS, timed=True).seconds_per_step is not None
    assert service.plan({**SETTINGS, "learning_rate": 1e-3}).seconds_per_step is not None
    assert service.plan({**SETTINGS, **changed}).seconds_per_step is None


def test_after_a_grid_that_failed_another_can_be_generated(environment):
    def fail(request):
        raise UserError("The WebUI was interrupted.")

    service = TrainingService(dataclasses.replace(environment, txt2img=fail))
    wait_until_over(service.start(SETTINGS))
    for _ in range(2):
        with pytest.raises(UserError, match="interrupted"):
            service.compare("cat", CompareConfig(strengths=[1.0]))
    service.queue.close()
