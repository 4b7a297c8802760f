"""What tab and API both do."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import threading

import pytest
from PIL import Image

from lib_lora_train.compare.best import recommend
from lib_lora_train.config import CompareConfig
from lib_lora_train.hosts.place import Place
from lib_lora_train.jobs import State, wait_until_over
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.workshop import Workshop
from tests.training.runs import LendingHost, photos

SETTINGS = {
    "name": "cat", "images": "cats", "resolution": 64, "rank": 2, "repeats": 1, "epochs": 2, "preview_every": 0,
    "held_out_images": 1, "preview_prompts": ["a cat"], "preview_sampler": "euler", "preview_steps": 3,
}  # fmt: skip


@pytest.fixture
def place(lent, tmp_path):
    data = tmp_path / "data"
    policy = PathPolicy(allow_any=False, roots=[data / "datasets"])
    photos(data / "datasets" / "cats")
    return Place(
        title="test",
        make_host=lambda model: LendingHost(lent),
        lora_dir=tmp_path / "Lora",
        data_dir=data,
        lends_checkpoint=True,
        readable=lambda text: readable_folder(text, policy),
    )


@pytest.fixture
def workshop(place):
    made = Workshop(place)
    yield made
    made.jobs.close()


def test_the_place_decides_where_files_go(workshop, place, tmp_path):
    config = workshop.config({**SETTINGS, "lora_dir": str(tmp_path / "elsewhere"), "runs_dir": "/", "checkpoint": "/etc/passwd"})
    assert config.run.lora_dir == str(place.lora_dir)
    assert config.run.runs_dir == str(place.runs_dir)
    assert config.model.checkpoint == ""


def test_every_problem_comes_with_its_field(workshop):
    assert {problem.field for problem in workshop.problems({**SETTINGS, "name": "a/b", "rank": 0})} == {"name", "rank"}
    assert [problem.field for problem in workshop.problems({**SETTINGS, "images": ""})] == ["images"]
    assert [problem.field for problem in workshop.problems({**SETTINGS, "images": "dogs"})] == ["images"]
    assert workshop.problems(SETTINGS) == []


def test_all_problems_come_at_once(workshop, complaint):
    unfit = {**SETTINGS, "name": "a/b", "rank": 0, "images": "dogs", "regularisation": "birds"}
    for ask in (workshop.plan, workshop.start):
        fields = [line.split(":")[0] for line in complaint(ask, unfit).splitlines()]
        assert sorted(fields) == ["images", "name", "rank", "regularisation"]
    assert {problem.field for problem in workshop.problems({**SETTINGS, "name": "", "images": "", "rank": 0})} == {"name", "images", "rank"}


@pytest.mark.parametrize("path", ["../../secret.safetensors", "/etc/secret.safetensors"])
def test_an_adapter_outside_the_lora_folder_is_not_continued_from(workshop, path):
    assert [problem.field for problem in workshop.problems({**SETTINGS, "continue_from": path})] == ["continue_from"]


def test_an_adapter_in_the_lora_folder_is(workshop, place):
    wait_until_over(workshop.start(SETTINGS))
    config = workshop.config({**SETTINGS, "name": "more", "continue_from": "cat/cat.safetensors"})
    assert config.adapter.continue_from == str(place.lora_dir / "cat" / "cat.safetensors")


def test_runs_are_listed_with_their_epochs_and_the_best(workshop):
    assert workshop.runs() == []
    wait_until_over(workshop.start(SETTINGS))
    (run,) = workshop.runs()
    assert (run.name, run.complete, [point.epoch for point in run.points]) == ("cat", True, [1, 2])
    assert run.recommendation.epoch == recommend(run.validated, [1, 2]).epoch


def test_a_run_is_read_again_only_when_it_has_changed(workshop, monkeypatch):
    wait_until_over(workshop.start(SETTINGS))
    (first,) = workshop.runs()
    read = []
    monkeypatch.setattr(RunFolder, "points", lambda folder: read.append(folder) or [])
    assert workshop.runs() == [first]
    assert read == []
    (first.folder.adapters / "cat-000001.safetensors").unlink()
    assert workshop.runs()[0].points == []
    assert len(read) == 1


def test_listing_runs_reads_no_weights(workshop, monkeypatch):
    wait_until_over(workshop.start(SETTINGS))
    final = workshop.run("cat").folder.final_file
    with final.open("r+b") as file:  # the weights are gone, what is written about them stays
        file.truncate(8 + struct.unpack("<Q", final.read_bytes()[:8])[0])
    assert [point.epoch for point in workshop.run("cat").points] == [1, 2]


def test_a_run_left_in_the_line_can_be_taken_up_the_next_time(place, lent, workshop):
    shut = threading.Event()

    class Slow(LendingHost):
        @contextlib.contextmanager
        def turn(self, waiting=None):
            while not shut.wait(0.02):
                waiting("Not yet.")
            yield

    first = Workshop(dataclasses.replace(place, make_host=lambda model: Slow(lent)))
    first.start(SETTINGS)
    first.start({**SETTINGS, "name": "dog"})
    first.jobs.close()
    shut.set()

    second = Workshop(place)
    assert second.unfinished()[0] == "dog"
    assert wait_until_over(second.resume("dog")) == State.FINISHED
    assert "dog" not in second.unfinished()
    assert Workshop(place).jobs.left_over() == []
    second.jobs.close()


def test_a_webuis_own_drawing_gets_the_tag_a_person_would_type(place):
    wishes = []

    def txt2img(wish):
        wishes.append(wish)
        return Image.new("RGB", (64, 64))

    workshop = Workshop(dataclasses.replace(place, txt2img=txt2img))
    wait_until_over(workshop.start(SETTINGS))
    comparison = workshop.compare("cat", CompareConfig(strengths=[0.0, 0.75]))
    prompts = [wish.prompt for wish in wishes]
    assert prompts == ["a cat", "a cat <lora:cat-000001:0.75>", "a cat <lora:cat:0.75>"]
    assert {(wish.sampler, wish.steps, wish.width) for wish in wishes} == {("euler", 3, 64)}
    assert comparison.grid.is_file()
    workshop.jobs.close()


def test_one_grid_at_a_time(place, complaint):
    def txt2img(wish):
        assert "being drawn" in complaint(workshop.compare, "cat", CompareConfig())
        return Image.new("RGB", (64, 64))

    workshop = Workshop(dataclasses.replace(place, txt2img=txt2img))
    wait_until_over(workshop.start(SETTINGS))
    workshop.compare("cat", CompareConfig(strengths=[1.0]))
    workshop.jobs.close()


@pytest.mark.parametrize("name", ["../cats", "cat/../cat", "", "."])
def test_a_run_is_found_by_its_name_alone(workshop, complaint, name):
    wait_until_over(workshop.start(SETTINGS))
    assert "no run" in complaint(workshop.run, name)


def test_captions_are_written_by_the_describer_that_is_chosen(place, complaint):
    @contextlib.contextmanager
    def parrot():
        yield lambda image: f"{image.width} wide"

    workshop = Workshop(dataclasses.replace(place, describers={"parrot": parrot}))
    folder = place.datasets_dir / "cats"
    (folder / "0.txt").unlink()
    report = workshop.caption("cats", "parrot")
    assert [path.name for path in report.written] == ["0.txt"]
    assert (folder / "0.txt").read_text(encoding="utf-8").strip() == "64 wide"
    assert "parrot" in complaint(workshop.caption, "cats", "owl")
    assert "images" in complaint(workshop.caption, "../..", "parrot")
