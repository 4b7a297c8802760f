"""A plan that is made again reads only what has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_lora_train.service import TrainingService
from tests.environments import webui_environment
from tests.training.runs import photos

SETTINGS = {
    "name": "cat",
    "dataset_folder": "cats",
    "resolution": 64,
    "rank": 2,
    "repeats": 1,
    "epochs": 2,
    "sample_every_n_epochs": 0,
    "loss_mask": "folder",
}


@pytest.fixture
def environment(checkpoint, tmp_path):
    return webui_environment(checkpoint, tmp_path)


@pytest.fixture
def cats(environment) -> Path:
    """Five images with captions, of which one has a mask."""
    folder = photos(environment.datasets_dir / "cats", 5)
    write_image(folder / "mask" / "0.png")
    return folder


@pytest.fixture
def service(environment, cats):
    made = TrainingService(environment)
    yield made
    made.queue.close()


@pytest.fixture
def opened(cats, monkeypatch) -> list[str]:
    """The files of the dataset that have been opened, by name."""
    names: list[str] = []
    real = open

    def recording(file, *arguments, **named):
        if isinstance(file, (str, Path)) and Path(file).is_relative_to(cats):
            names.append(Path(file).relative_to(cats).as_posix())
        return real(file, *arguments, **named)

    monkeypatch.setattr("builtins.open", recording)
    monkeypatch.setattr("io.open", recording)
    return names


def write_image(path: Path, side: int = 64, color: str = "white") -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (side, side), color).save(path)


def test_a_first_plan_opens_every_image_caption_and_mask(service, opened):
    service.plan(SETTINGS)
    assert sorted(opened) == sorted(["mask/0.png", *(f"{n}.{kind}" for n in range(5) for kind in ("png", "txt"))])


def test_a_second_plan_of_an_unchanged_run_opens_no_file_of_the_dataset(service, opened):
    first = service.plan(SETTINGS)
    opened.clear()
    assert service.plan(SETTINGS) == first
    assert opened == []


@pytest.mark.parametrize(
    "changed",
    [{"name": "dog"}, {"learning_rate": 3e-5}, {"rank": 4}, {"epochs": 5}, {"sample_prompts": ["a dog"]}],
    ids=str,
)
def test_a_setting_that_does_not_concern_the_dataset_opens_no_file_of_it(service, environment, opened, changed):
    service.plan(SETTINGS)
    opened.clear()
    plan = service.plan({**SETTINGS, **changed})
    assert opened == []
    assert plan == TrainingService(environment).plan({**SETTINGS, **changed})


@pytest.mark.parametrize(
    "changed",
    [{"trigger_word": "sks"}, {"loss_mask": "none"}, {"seed": 7}, {"validation_images": 2}, {"repeats": 3}],
    ids=str,
)
def test_a_setting_of_the_dataset_counts(service, environment, changed):
    service.plan(SETTINGS)
    settings = {**SETTINGS, **changed}
    assert service.plan(settings) == TrainingService(environment).plan(settings)
    assert (
        service.prepare(settings).task_data.dataset == TrainingService(environment).prepare(settings).task_data.dataset
    )


CHANGES = {
    "a caption is edited": lambda cats: (cats / "2.txt").write_text("another caption"),
    "a caption is removed": lambda cats: (cats / "2.txt").unlink(),
    "an image is added": lambda cats: write_image(cats / "new.png"),
    "an image is removed": lambda cats: (cats / "2.png").unlink(),
    "an image is renamed": lambda cats: (cats / "2.png").rename(cats / "7.png"),
    "an image is replaced by a larger one": lambda cats: write_image(cats / "2.png", 128),
    "a mask is added": lambda cats: write_image(cats / "mask" / "1.png"),
    "a mask is removed": lambda cats: (cats / "mask" / "0.png").unlink(),
    "a mask is damaged": lambda cats: (cats / "mask" / "0.png").write_bytes(b"damaged"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_file_is_noticed(service, environment, cats, change):
    before = service.prepare(SETTINGS).task_data.dataset
    change(cats)
    after = service.prepare(SETTINGS).task_data.dataset
    assert after != before
    assert after == TrainingService(environment).prepare(SETTINGS).task_data.dataset


def test_another_mask_of_the_same_size_is_noticed(service, cats, opened):
    before = service.prepare(SETTINGS)
    write_image(cats / "mask" / "0.png", color="#808080")
    opened.clear()
    assert service.prepare(SETTINGS) is not before
    assert "mask/0.png" in opened


def test_only_new_images_are_opened_when_the_dataset_is_read_again(service, cats, opened):
    service.plan(SETTINGS)
    write_image(cats / "new.png")
    opened.clear()
    service.plan({**SETTINGS, "trigger_word": "sks"})
    assert [name for name in opened if name.endswith(".png")] == ["new.png"]
