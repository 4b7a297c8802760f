"""When an epoch is validated and sampled, and what a failure costs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lib_lora_train.config import TrainConfig
from lib_lora_train.training import evaluator as module
from lib_lora_train.training.control import StopRequested
from lib_lora_train.training.evaluator import Evaluator
from lib_lora_train.training.events import Sampled, Validated, Warned
from lib_lora_train.training.run_folder import RunFolder


class Recorder:
    """The parts of a run that an evaluator uses. `strength` is the adapter's; `slots` counts GPU slots."""

    def __init__(self, tmp_path: Path, is_main: bool, settings: dict) -> None:
        flat = {"name": "cat", "runs_dir": str(tmp_path), "sample_prompts": ["a cat", "a star"], **settings}
        self.config = TrainConfig.from_flat(flat)
        self.folder = RunFolder.at(self.config)
        self.folder.path.mkdir(exist_ok=True)
        self.is_main, self.events = is_main, []
        self.checkpoint = SimpleNamespace(autocast=contextlib.nullcontext)
        self.accelerator = SimpleNamespace(wait_for_everyone=lambda: None)
        self.slots, self.scale, self.measured_at = 0, 1.0, []

    def emit(self, event) -> None:
        self.events.append(event)

    @contextlib.contextmanager
    def gpu_slot(self):
        self.slots += 1
        yield

    @contextlib.contextmanager
    def strength(self, strength: float):
        before, self.scale = self.scale, strength
        yield
        self.scale = before

    def measured(self) -> list[float]:
        self.measured_at.append(self.scale)
        return [1.0, 2.0, 6.0]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(...): (evaluator, recorder). `generate` makes the sample images."""

    def generate(*arguments, **named) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]

    def build(*, is_main=True, measures=True, generate=generate, **settings) -> tuple[Evaluator, Recorder]:
        recorder = Recorder(tmp_path, is_main, settings)
        monkeypatch.setattr(module, "generate", generate)
        task = SimpleNamespace(measures=measures, measured=recorder.measured, task_data=None)
        return Evaluator(recorder, None, recorder, task), recorder

    return build


def kinds(recorder: Recorder) -> list[str]:
    return [type(event).__name__ for event in recorder.events]


@pytest.mark.parametrize(
    ("every", "epoch", "last", "done"),
    [(1, 1, False, True), (2, 1, False, False), (2, 4, False, True), (2, 5, True, True), (0, 4, True, False)],
)
def test_every_nth_epoch_and_the_last_are_validated_and_sampled_unless_turned_off(make, every, epoch, last, done):
    evaluator, recorder = make(validate_every_n_epochs=every, sample_every_n_epochs=every)
    evaluator.evaluate_epoch(epoch, last=last)
    assert kinds(recorder) == (["Validated", "Sampled"] if done else [])
    assert recorder.slots == len(recorder.events)


class TestValidation:
    def test_reports_the_mean_and_its_parts(self, make):
        evaluator, recorder = make(validate_every_n_epochs=1, sample_every_n_epochs=0)
        evaluator.evaluate_epoch(2, last=False)
        assert recorder.events == [Validated(2, 3.0, [1.0, 2.0, 6.0])]
        assert recorder.measured_at == [1.0]

    def test_of_the_base_is_epoch_0_without_the_adapter(self, make):
        evaluator, recorder = make(validate_every_n_epochs=1)
        evaluator.validate_base()
        assert recorder.events == [Validated(0, 3.0, [1.0, 2.0, 6.0])]
        assert recorder.measured_at == [0]
        assert recorder.scale == 1.0

    @pytest.mark.parametrize("off", [{"measures": False}, {"is_main": False}, {"validate_every_n_epochs": 0}])
    def test_is_left_out_without_images_in_other_processes_and_when_turned_off(self, make, off):
        evaluator, recorder = make(**{"validate_every_n_epochs": 1, "sample_every_n_epochs": 0, **off})
        evaluator.validate_base()
        evaluator.evaluate_epoch(1, last=True)
        assert recorder.events == recorder.measured_at == []


SAMPLES_ONLY = {"validate_every_n_epochs": 0, "sample_every_n_epochs": 1}


class TestSampleImages:
    def test_are_written_and_reported_with_their_prompts(self, make, tmp_path):
        evaluator, recorder = make(**SAMPLES_ONLY)
        evaluator.evaluate_epoch(3, last=False)
        paths = [str(tmp_path / "cat" / "samples" / f"epoch-000003-{number}.png") for number in (1, 2)]
        assert recorder.events == [Sampled(3, paths, ["a cat", "a star"])]
        assert [Image.open(path).getpixel((0, 0)) for path in paths] == [(255, 0, 0), (0, 0, 255)]

    def test_use_the_same_seed_and_negative_prompt_for_every_prompt(self, make):
        calls = []

        def generate(denoiser, prompts, negative, seeds, options, at_once):
            calls.append((prompts, negative, seeds, at_once))
            return []

        evaluator, _ = make(generate=generate, sample_seed=7, sample_negative_prompt="blurry", **SAMPLES_ONLY)
        evaluator.evaluate_epoch(1, last=False)
        assert calls == [(["a cat", "a star"], "blurry", [7, 7], 1)]

    def test_that_fail_give_a_warning_and_not_the_end(self, make):
        def generate(*arguments, **named):
            raise RuntimeError("no memory")

        evaluator, recorder = make(generate=generate, **SAMPLES_ONLY)
        evaluator.evaluate_epoch(1, last=False)
        assert recorder.events == [Warned("Sample images of epoch 1 failed (no memory). Training continues.")]

    def test_obey_a_stop(self, make):
        def generate(*arguments, **named):
            raise StopRequested

        evaluator, _ = make(generate=generate, **SAMPLES_ONLY)
        with pytest.raises(StopRequested):
            evaluator.evaluate_epoch(1, last=False)
