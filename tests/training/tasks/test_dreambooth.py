"""DreamBooth runs: their data, what is trained and what is not, the number of steps, and an exact resume.

Also a learned trigger word and a text encoder that stops early, which any captioned run may have.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_lora_train.config import Problem
from lib_lora_train.objectives.dreambooth import DreamBooth
from lib_lora_train.training import evaluator, session
from lib_lora_train.training.class_images import ClassImages
from lib_lora_train.training.evaluator import Evaluator
from lib_lora_train.training.events import EpochDone, Progress, Started, Warned
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import resume, train
from lib_lora_train.training.tasks import read_task_data
from tests.training.runs import adapter_files, final_weights, of_kind, photos, stopping_after_a_slice
from tests.training.test_class_images import CLASS, RecordingTxt2Img

ALL = {"train_text_encoder": True, "trigger_vectors": 2, "batch_size": 4, "epochs": 2, "text_encoder_stop_epoch": 1}
WORD = "bundle_emb.sks.string_to_param.*"


@pytest.fixture
def dreambooth(tiny, tmp_path):
    """dreambooth(**settings): a run of four images and three existing class images."""
    folder = photos(tmp_path / "class", 3)
    return lambda **settings: tiny(
        **{**CLASS, "regularization_folder": str(folder), "prior_loss_weight_end": 0.25, **settings}
    )


class TestTaskData:
    def test_has_the_configured_number_of_class_images_before_and_after_they_are_generated(self, tiny, host):
        config = tiny(**CLASS, num_class_images=5)
        planned = read_task_data(config).summary()
        train(config, host, txt2img=RecordingTxt2Img())
        generated = ClassImages.of(config, host.describe()).applied_to(config)
        assert read_task_data(generated).summary() == planned
        assert (planned.images, planned.regularization_images, planned.shown_per_epoch) == (4, 5, 8)

    def test_uses_the_first_images_of_a_larger_folder_and_says_so(self, dreambooth):
        task_data = read_task_data(dreambooth(num_class_images=2))
        assert [example.path.name for example in task_data.dataset.regularization] == ["0.png", "1.png"]
        assert "Only 2 of 3 class images are used. Set num_class_images to 0 to use all." in task_data.warnings
        assert len(read_task_data(dreambooth(num_class_images=0)).dataset.regularization) == 3

    def test_may_have_no_class_images_at_all(self, tiny):
        assert read_task_data(tiny(**CLASS, num_class_images=0)).summary().regularization_images == 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_weight_of_class_images_reaches_its_end_with_the_last_batch(dreambooth, host, monkeypatch, accumulation):
    weights, weigh = {}, DreamBooth.weights

    def listen(objective, batch, index):
        found = weigh(objective, batch, index)
        own = [e.regularization for e in batch.examples]
        weights[index] = [round(w, 6) for w, prior in zip(found.tolist(), own, strict=True) if prior]
        return found

    monkeypatch.setattr(DreamBooth, "weights", listen)
    train(dreambooth(prior_loss_weight=0.75, epochs=2, gradient_accumulation=accumulation), host)
    assert list(weights) == list(range(8))  # 4 images and as many of the class, in batches of 2, twice
    assert set(weights[0]) == {0.75}
    assert set(weights[7]) == {0.25}


def test_the_plan_says_how_many_class_images_are_generated_and_where(tiny, host):
    config = tiny(**CLASS, num_class_images=5)
    folder = ClassImages.of(config, host.describe()).folder
    plan = make_plan(config, host, timed=False)
    assert plan.steps == 4  # 4 images and as many class images, in batches of 2
    assert f"5 class images, 5 of them generated before training, in {folder}." in plan.warnings
    train(config, host, txt2img=RecordingTxt2Img())
    assert (
        f"5 class images, in {folder}."
        in make_plan(tiny(**CLASS, num_class_images=5, name="b"), host, timed=False).warnings
    )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"trigger_word": ""}, "trigger_word"),
        ({"class_word": " "}, "class_word"),
        ({"class_word": "SKS"}, "class_word"),
        ({"class_prompts": ["a cat", "a Sks cat"]}, "class_prompts"),
        ({"prior_loss_weight": 0.0}, "prior_loss_weight"),
    ],
)
def test_settings_that_make_no_sense_are_reported_at_their_field(tiny, settings, field):
    problems = tiny(**{**CLASS, **settings}).problems()
    assert [problem.field for problem in problems] == [field]
    assert isinstance(problems[0], Problem)


def test_a_captioned_run_needs_none_of_these_settings(tiny):
    assert tiny(class_word="", trigger_word="", prior_loss_weight_end=0.0).problems() == []


@pytest.fixture
def spied(monkeypatch):
    """Records each session's denoiser and, for its last step, which parameters had gradients."""
    seen: dict[str, object] = {}
    update = session.Loop._update

    def remember(loop):
        seen["with"] = {id(p) for p in loop.parameters if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        seen["parameters"] = loop.parameters
        update(loop)

    opened = session.open_denoiser
    monkeypatch.setattr(session.Loop, "_update", remember)
    monkeypatch.setattr(session, "open_denoiser", lambda *a: seen.setdefault("denoiser", opened(*a)))
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_adapter_and_its_word_and_nothing_else(dreambooth, host, spied, checkpointing):
    train(dreambooth(gradient_checkpointing=checkpointing, train_text_encoder=True, trigger_vectors=1, epochs=2), host)
    assert len(spied["with"]) == len(spied["parameters"])
    own, denoiser = {id(p) for p in spied["parameters"]}, spied["denoiser"]
    others = [
        p
        for module in (denoiser.unet, denoiser.text_encoders, denoiser.vae)
        for p in module.parameters()
        if id(p) not in own
    ]
    assert others
    assert not any(p.requires_grad or p.grad is not None for p in others)


@pytest.mark.usefixtures("step_by_step")
class TestARunThatIsCut:
    def test_has_the_steps_of_the_plan_and_resumed_after_any_of_them_writes_the_same_bytes(
        self, dreambooth, host, tmp_path
    ):
        whole, events = dreambooth(**ALL), []
        assert make_plan(whole, host, timed=False).steps == 4
        train(whole, host, events.append)
        assert [event.step for event in of_kind(events, Progress)] == [1, 2, 3, 4]
        assert of_kind(events, Started)[0].steps == 4
        expected = adapter_files(whole)
        folder = tmp_path / "cut"
        config = dreambooth(**ALL, lora_dir=str(folder / "Lora"), runs_dir=str(folder / "runs"))
        assert train(config, host, *stopping_after_a_slice([])) is None
        while resume(folder / "runs" / "tiny", host, *stopping_after_a_slice([])) is None:
            pass
        made = adapter_files(config)
        assert {name: made[name] for name in expected} == expected


class TestTheTextEncoderStops:
    @pytest.fixture
    def learned(self, dreambooth, host):
        """learned(epochs, stop): the weights after each epoch, by name."""

        def make(**settings) -> list[dict[str, torch.Tensor]]:
            from safetensors.torch import load_file

            config = dreambooth(train_text_encoder=True, trigger_vectors=1, epochs=3, batch_size=8, **settings)
            train(config, host)
            folder = Path(config.run.lora_dir) / "tiny"
            return [
                load_file(folder / name)
                for name in ("tiny-000001.safetensors", "tiny-000002.safetensors", "tiny.safetensors")
            ]

        return make

    @staticmethod
    def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {
            "word" if name == WORD else name.split("_", 2)[1]
            for name in before
            if name.endswith((".weight", "*")) and not torch.equal(before[name], after[name])
        }

    def test_at_the_end_of_its_epoch_with_its_word_while_the_unet_goes_on(self, learned):
        first, second, third = learned(text_encoder_stop_epoch=2)
        assert self.changed(first, second) == {"unet", "te", "word"}
        assert self.changed(second, third) == {"unet"}

    def test_never_where_no_epoch_is_set(self, learned):
        _, second, third = learned()
        assert self.changed(second, third) == {"unet", "te", "word"}


def test_sample_images_and_validation_use_the_learned_word(dreambooth, host, monkeypatch):
    used: list[str] = []
    generate = evaluator.generate

    def spy(denoiser, prompts, *rest, **named):
        used.extend(e.learned.word for e in denoiser.word_embedders if e.learned and e.learned.active)
        return generate(denoiser, prompts, *rest, **named)

    monkeypatch.setattr(evaluator, "generate", spy)
    active: list[bool] = []
    measured = Evaluator._validate

    def measure(run, epoch):
        active.append(run.adapter.embedding.embeddings[0].active)
        measured(run, epoch)

    monkeypatch.setattr(Evaluator, "_validate", measure)
    events: list = []
    train(
        dreambooth(trigger_vectors=1, sample_every_n_epochs=1, validate_every_n_epochs=1, validation_images=1),
        host,
        events.append,
    )
    assert used == ["sks"]
    assert active == [False, True]  # the base, then the first epoch
    assert of_kind(events, EpochDone)
    assert not of_kind(events, Warned)


def test_a_word_is_learned_and_saved(dreambooth, host):
    config = dreambooth(trigger_vectors=2, class_word="cat")
    train(config, host)
    word = final_weights(config)[WORD]
    assert word.shape == (2, 16)
    assert not torch.equal(word[0], word[1])
