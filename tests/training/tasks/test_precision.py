"""Every training method in bf16: what is trained, and what a failed step leaves behind.

The versions of accelerate that the WebUIs install differ in how they switch autocast; the tests are run with each.
"""

from __future__ import annotations

import pytest
import torch

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.objectives.leco import LECO
from lib_lora_train.training import session
from lib_lora_train.training.session import train
from tests.training.runs import adapter_files, photos

PROMPTS = {"dataset_folder": "", "prompt_pairs": ["red -> blue"], "steps_per_epoch": 2, "denoising_steps": 3}
STEPS = 2


@pytest.fixture
def settings_of(tmp_path):
    """settings_of(method): a run of that method in bf16; everything that it can train is trained."""
    first, second = photos(tmp_path / "sets" / "-1", 2), photos(tmp_path / "sets" / "1", 3)
    pairs = {"dataset_folder": str(first), "after_folder": str(second)}
    for number in range(2):  # each "after" differs from its "before"
        (second / f"{number + 1}.png").replace(second / f"{number}.png")
    classes = {"trigger_word": "sks", "class_word": "cat", "regularization_folder": str(first)}
    own = {
        "dreambooth": {**classes, "trigger_vectors": 1},
        "ileco": PROMPTS,
        "leco": PROMPTS,
        "text_slider": PROMPTS,
        "addift": pairs,
        "difference": {**pairs, "first_pass_epochs": 1, "epochs": 2},
        "image_slider": {"dataset_folder": str(tmp_path / "sets")},
    }

    def make(method: str) -> dict[str, object]:
        shared = {"precision": "bf16", "max_steps": STEPS, "batch_size": 1, "conv_rank": 1, "train_text_encoder": True}
        return {"training_method": method, **shared, **own.get(method, {})}

    return make


@pytest.fixture
def gradients(monkeypatch) -> list[list[bool | None]]:
    """For each optimizer step: whether the gradient of each parameter is other than 0; None without a gradient."""
    found: list[list[bool | None]] = []
    make = session.make_optimizer

    def recording(*arguments):
        optimizer = make(*arguments)

        def record(optimizer, *_):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            found.append([None if weight.grad is None else bool(weight.grad.any()) for weight in weights])

        optimizer.register_step_pre_hook(record)
        return optimizer

    monkeypatch.setattr(session, "make_optimizer", recording)
    return found


@pytest.fixture
def host_of():
    """host_of(config): the host with the settings' precision, on the CPU."""
    return lambda config: StandaloneHost(config.model, torch.device("cpu"))


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_every_weight_is_trained(method, tiny, host_of, settings_of, gradients):
    config = tiny(**settings_of(method))
    train(config, host_of(config))
    assert len(gradients) == STEPS
    assert all(learned is not None for step in gradients for learned in step), "a weight has no gradient"
    # The first step trains "up", which begins at 0; the second one trains "down" too.
    assert all(any(learned) for learned in zip(*gradients, strict=True)), "a weight has gradients of 0 only"


def test_a_run_after_a_step_that_failed_learns_what_it_would_have_learned(
    tiny, host_of, settings_of, tmp_path, monkeypatch
):
    def run(name: str, folder: str) -> dict[str, bytes]:
        folders = {"lora_dir": str(tmp_path / folder / "Lora"), "runs_dir": str(tmp_path / folder / "runs")}
        config = tiny(name=name, **settings_of("leco"), **folders)
        train(config, host_of(config))
        return adapter_files(config)

    undisturbed = run("same", "before")
    with monkeypatch.context() as patched:
        patched.setattr(LECO, "loss", _fails_after(LECO.loss))
        with pytest.raises(RuntimeError, match="interrupted"):
            run("failed", "failed")
    assert not torch.is_autocast_cpu_enabled()
    assert run("same", "after") == undisturbed


def _fails_after(loss):
    """A loss that is computed, and then raises."""

    def interrupted(*arguments):
        loss(*arguments)
        raise RuntimeError("interrupted")

    return interrupted
