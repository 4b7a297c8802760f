"""What every training method must do, on the random miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.training.session import resume, train
from tests.training.conftest import host, step_by_step, tiny  # noqa: F401 - fixtures
from tests.training.runs import adapter_files, final_weights, stopping_after_a_slice


@pytest.fixture
def holds(tiny, host, step_by_step, tmp_path) -> Callable[..., None]:  # noqa: F811
    """holds(steps=..., **settings): the method trains that many steps, is reproducible, resumes exactly, learns the same
    with gradient checkpointing, and changes nothing of the host."""

    def check(steps: int, **settings: object) -> TrainConfig:
        settings = {**settings, "lr_scheduler": "cosine"}
        before = {name: tensor.clone() for name, tensor in _tensors(host.checkpoint).items()}
        whole = tiny(name="whole", **settings)
        train(whole, host)
        assert _steps_of(whole) == steps
        again = tiny(name="whole", **settings, **_in(tmp_path / "again"))
        train(again, host)
        assert adapter_files(again) == adapter_files(whole)

        cut = tiny(name="whole", **settings, **_in(tmp_path / "cut"))
        assert train(cut, host, *stopping_after_a_slice([])) is None
        resume(tmp_path / "cut" / "runs" / "whole", host)
        assert {name: adapter_files(cut)[name] for name in adapter_files(whole)} == adapter_files(whole)

        saving = tiny(name="saving", gradient_checkpointing=True, **settings)
        train(saving, host)
        mine, others = final_weights(whole), final_weights(saving)
        assert all(torch.allclose(mine[name], others[name], atol=2e-5) for name in mine)
        ups = [tensor for name, tensor in mine.items() if name.endswith("up.weight")]
        assert sum(bool(up.any()) for up in ups) == len(ups), "a layer has learned nothing"

        after = _tensors(host.checkpoint)
        assert all(torch.equal(before[name], after[name]) and after[name].grad is None for name in before)
        return whole

    return check


def _tensors(checkpoint) -> dict[str, torch.Tensor]:
    parts = [checkpoint.unet, checkpoint.vae, *(text.weights for text in checkpoint.text_encoders)]
    return {f"{number}.{name}": tensor for number, part in enumerate(parts) for name, tensor in part.items()}


def _in(folder: Path) -> dict[str, str]:
    return {"lora_dir": str(folder / "Lora"), "runs_dir": str(folder / "runs")}


def _steps_of(config: TrainConfig) -> int:
    from lib_lora_train.adapters.formats.kohya import read_metadata

    path = Path(config.run.lora_dir) / config.run.name / f"{config.run.name}.safetensors"
    return int(read_metadata(path)["ss_steps"])
