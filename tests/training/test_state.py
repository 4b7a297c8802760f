"""What a resume needs, saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.embedding import TriggerEmbedding
from lib_lora_train.model.denoiser import TargetLayer
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.state import changes_since, load_state, save_state
from tests.adapters.adapting import adapted, randomize

CPU = torch.device("cpu")
ORIGIN = {"checkpoint": "abc", "images": "123"}


def fresh_adapter() -> Adapter:
    adapter = adapted([TargetLayer(nn.Linear(3, 4), "lora_unet_somewhere")], rank=2, alpha=0.1)
    adapter.embedding = TriggerEmbedding.starting_from("sks", [torch.ones(2, 5)])
    return adapter


def state_of_a_run(path: Path) -> tuple[Adapter, Loop]:
    """An adapter on top of a frozen one, trained for three steps, and saved."""
    adapter = fresh_adapter()
    randomize(adapter)
    adapter.freeze(Randomness(0))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def batches(start):
        while True:
            yield None

    def loss(batch, index):
        return sum((parameter - 1 / 3).square().sum() for parameter in adapter.parameters())

    loop = Loop(Accelerator(cpu=True), loss, batches, adapter.parameters(), optimizer, schedule)
    loop.run_until(3)
    save_state(path, adapter, loop, ORIGIN)
    return adapter, loop


def test_the_adapter_comes_back_unrounded(tmp_path):
    adapter, _ = state_of_a_run(tmp_path / "state.pt")
    other = fresh_adapter()
    other.load_state_dict(load_state(tmp_path / "state.pt", CPU)["adapter"])
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), other.parameters(), strict=True))
    frozen, again = (each.layers[0].frozen.delta_weight() for each in (adapter, other))
    assert frozen.any()
    assert torch.equal(frozen, again)
    assert other.layers[0].adapter.scale == 0.1 / 2


def test_the_optimizer_schedule_and_step_come_back(tmp_path):
    _, loop = state_of_a_run(tmp_path / "state.pt")
    state = load_state(tmp_path / "state.pt", CPU)
    assert (state["step"], state["origin"]) == (3, ORIGIN)
    moments, saved = loop.optimizer.state_dict()["state"], state["optimizer"]["state"]
    assert moments.keys() == saved.keys()
    for index, moment in moments.items():
        for name, value in moment.items():
            assert torch.equal(torch.as_tensor(saved[index][name]), torch.as_tensor(value))
    assert state["schedule"]["last_epoch"] == 3


DAMAGES = {
    "empty": lambda content: b"",
    "cut off early": lambda content: content[:10],
    "cut in half": lambda content: content[: len(content) // 2],
    "cut at its end": lambda content: content[:-5],
    "text": lambda content: b"nothing of the kind\n" * 50,
    "noise": lambda content: bytes(range(256)) * 10,
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused(tmp_path, complaint, damage):
    path = tmp_path / "state.pt"
    state_of_a_run(path)
    path.write_bytes(damage(path.read_bytes()))
    assert (
        complaint(load_state, path, CPU) == f"{path} is damaged. Delete it to start the run again from the beginning."
    )


def test_a_file_of_something_else_is_refused(tmp_path, complaint):
    path = tmp_path / "state.pt"
    for content in ({"weights": torch.zeros(2)}, [1, 2]):
        torch.save(content, path)
        assert "is damaged" in complaint(load_state, path, CPU)


def test_a_file_that_would_run_code_is_refused(tmp_path, complaint):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    path = tmp_path / "state.pt"
    torch.save({"step": Bomb()}, path)
    assert "is damaged" in complaint(load_state, path, CPU)


def test_the_previous_state_stays_when_the_disk_is_full(tmp_path, complaint, monkeypatch):
    import errno
    import os

    path = tmp_path / "state.pt"
    adapter, loop = state_of_a_run(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in complaint(save_state, path, adapter, loop, ORIGIN)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_changed_since_the_start_is_named():
    assert changes_since(ORIGIN, ORIGIN) == []
    assert changes_since(ORIGIN, {**ORIGIN, "images": "456"}) == ["images"]
    assert changes_since(ORIGIN, {"checkpoint": "x", "images": "y"}) == ["checkpoint", "images"]
