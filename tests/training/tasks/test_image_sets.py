"""Training on image sets: what is read, trained on and learned."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lib_lora_train.adapters.formats.kohya import read_metadata
from lib_lora_train.training.control import Control
from lib_lora_train.training.events import Progress
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import resume, train
from lib_lora_train.training.tasks import read_task_data
from lib_lora_train.training.tasks.image_sets import first_batch_of_second_pass
from tests.training.runs import adapter_files, final_weights


@pytest.fixture
def sets(tmp_path) -> Path:
    """Two sets at three strengths: noise that grows brighter, with captions at the first strength."""
    for name in range(2):
        pixels = np.random.Generator(np.random.PCG64(name)).integers(0, 128, (64, 64, 3))
        for strength in (-1, 0.5, 1):
            folder = tmp_path / "sets" / f"{strength:g}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels + 60 * (1 + strength)).astype(np.uint8)).save(folder / f"{name}.png")
        (tmp_path / "sets" / "-1" / f"{name}.txt").write_text(f"a cat {name}")
    return tmp_path / "sets"


def pair_settings(sets: Path) -> dict[str, object]:
    return {
        "training_method": "addift",
        "dataset_folder": str(sets / "-1"),
        "after_folder": str(sets / "1"),
        "batch_size": 1,
    }


def test_pairs_are_reproducible_and_resume_exactly(holds, sets):
    holds(steps=2, **pair_settings(sets), flip_horizontally=True, difference_mask=True, train_text_encoder=True)


def test_a_slider_is_reproducible_and_resumes_exactly(holds, sets):
    holds(steps=2, training_method="image_slider", dataset_folder=str(sets), batch_size=1)


def weights_of(tiny, host, name: str, **settings: object) -> dict[str, torch.Tensor]:
    config = tiny(name=name, **settings)
    train(config, host)
    return final_weights(config)


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


def test_captions_and_masks_have_an_effect(tiny, host, sets):
    settings = pair_settings(sets) | {"max_steps": 1}
    plain = weights_of(tiny, host, "plain", **settings)
    assert differ(plain, weights_of(tiny, host, "masked", **settings, difference_mask=True))
    for file in (sets / "-1").glob("*.txt"):
        file.write_text("something else")
    assert differ(plain, weights_of(tiny, host, "captioned", **settings))


def test_a_cell_counts_where_the_mask_of_any_strength_is_white(tiny, host, sets):
    settings = pair_settings(sets) | {"max_steps": 1}
    for folder in ("-1", "1"):
        (sets / folder / "mask").mkdir()
        for name in range(2):
            Image.new("L", (64, 64), 255 if folder == "1" else 0).save(sets / folder / "mask" / f"{name}.png")
    masked = weights_of(tiny, host, "masked", **settings, loss_mask="folder")
    assert not differ(weights_of(tiny, host, "plain", **settings), masked)
    shutil.copytree(sets / "-1" / "mask", sets / "1" / "mask", dirs_exist_ok=True)
    nothing = weights_of(tiny, host, "nothing", **settings, loss_mask="folder")
    assert all(not tensor.any() for name, tensor in nothing.items() if name.endswith("up.weight"))


def test_a_plan_names_the_image_sets(tiny, host, sets):
    plan = make_plan(tiny(training_method="image_slider", dataset_folder=str(sets), repeats=5, batch_size=2), host)
    assert (plan.images, plan.shown_per_epoch, plan.steps) == (6, 30, 5)
    assert "2 image sets at strengths -1, 0.5, 1" in str(plan)


def test_memory_and_prompts_follow_the_image_sets(tiny, host, sets):
    config = tiny(training_method="image_slider", dataset_folder=str(sets), batch_size=1)
    one = tiny(dataset_folder=str(sets / "1"), trigger_word="x", batch_size=3)
    assert make_plan(config, host, timed=False).memory == make_plan(one, host, timed=False).memory
    assert read_task_data(config).prompts() == ["a cat 0", "a cat 1"]


def test_the_adapter_has_its_settings_without_paths(tiny, host, sets, tmp_path):
    path = train(tiny(**pair_settings(sets), max_steps=1), host)
    summary = read_metadata(path)
    assert summary["ss_num_train_images"] == "4"
    assert 'training_method = "addift"' in summary["lora_train_config"]
    assert str(tmp_path).encode() not in path.read_bytes()


def test_a_damaged_image_is_named_and_its_set_left_out(tiny, host, sets):
    broken = sets / "1" / "0.png"
    broken.write_bytes(broken.read_bytes()[:600])
    events = []
    train(tiny(**pair_settings(sets), max_steps=1), host, events.append)
    assert any("0.png" in getattr(event, "message", "") for event in events)


class TestTwoPasses:
    @pytest.fixture
    def settings(self, sets):
        return pair_settings(sets) | {
            "training_method": "difference",
            "epochs": 2,
            "first_pass_epochs": 1,
            "batch_size": 2,
        }

    def test_are_reproducible_and_resume_exactly(self, holds, settings):
        holds(steps=2, **settings)

    def test_only_the_second_is_saved(self, tiny, host, settings):
        """Its down weights are initialized anew, so that only the first pass's own file shows what it learned."""
        config = tiny(**settings)
        train(config, host)
        folder = Path(config.run.lora_dir) / "tiny"
        first, last = (load_file(folder / name) for name in ("tiny-000001.safetensors", "tiny.safetensors"))
        assert first.keys() == last.keys()
        downs = [name for name in first if name.endswith("down.weight")]
        assert all(not torch.allclose(first[name], last[name], atol=0.1 * first[name].std().item()) for name in downs)

    def test_the_second_is_trained_on_top_of_the_first(self, tiny, host, sets, settings):
        """With equal images in the second pass, its result depends on the first pass."""
        after_one = weights_of(tiny, host, "one", **settings)
        shutil.copy(sets / "0.5" / "0.png", sets / "-1" / "0.png")
        after_another = weights_of(tiny, host, "another", **settings)
        assert differ(after_one, after_another)

    @pytest.mark.parametrize("stopped_at", [1, 2, 3, 5])
    def test_stopped_in_either_pass_and_resumed_write_the_same_bytes(
        self, tiny, host, settings, step_by_step, tmp_path, stopped_at
    ):
        """Six steps; the second pass begins after the third."""
        settings = settings | {"batch_size": 1, "gradient_accumulation": 2, "epochs": 6, "first_pass_epochs": 3}
        whole = tiny(**settings)
        train(whole, host)
        folder, control = tmp_path / "cut", Control()
        cut = tiny(**settings, lora_dir=str(folder / "Lora"), runs_dir=str(folder / "runs"))

        def report(event):
            if isinstance(event, Progress) and event.step == stopped_at:
                control.stop()

        assert train(cut, host, report, control) is None
        assert resume(folder / "runs" / "tiny", host) is not None
        expected, made = adapter_files(whole), adapter_files(cut)
        assert {name: made[name] for name in expected} == expected

    @pytest.mark.parametrize(
        ("epochs", "batches", "accumulation", "first"), [(1, 2, 1, 2), (1, 2, 3, 3), (2, 3, 4, 8), (3, 4, 2, 12)]
    )
    def test_the_second_begins_with_an_optimizer_step(self, tiny, settings, epochs, batches, accumulation, first):
        config = tiny(**settings | {"first_pass_epochs": epochs, "gradient_accumulation": accumulation})
        assert first_batch_of_second_pass(config, batches) == first

    def test_need_epochs_for_both(self, tiny, settings):
        assert [p.field for p in tiny(**{**settings, "first_pass_epochs": 2}).problems()] == ["first_pass_epochs"]
