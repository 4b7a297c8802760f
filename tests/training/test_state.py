"""What a resume needs, on disk and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lib_lora_train.adapters.inject import Adapter
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.state import changes_since, load_state, save_state

CPU = torch.device("cpu")
ORIGIN = {"checkpoint": "abc", "dataset_folder": "123"}


class Layer:
    name = "lora_unet_somewhere"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.down = torch.nn.Parameter(torch.randn(2, 3, generator=generator))
        self.up = torch.nn.Parameter(torch.randn(3, 2, generator=generator))


def state_of_a_run(path: Path) -> tuple[Adapter, Loop]:
    adapter = Adapter([Layer()])
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def batches(start):
        while True:
            yield None

    def loss(batch, index):
        return sum(parameter.square().sum() for parameter in adapter.parameters())

    loop = Loop(Accelerator(cpu=True), loss, batches, adapter.parameters(), optimizer, schedule)
    loop.run_until(3)
    save_state(path, adapter, loop, ORIGIN)
    return adapter, loop


def test_comes_back_unrounded(tmp_path):
    adapter, loop = state_of_a_run(tmp_path / "state.pt")
    state = load_state(tmp_path / "state.pt", CPU)
    down, up = state["adapter"]["lora_unet_somewhere"]
    assert torch.equal(down, adapter.unet[0].down)
    assert torch.equal(up, adapter.unet[0].up)
    assert (state["step"], state["origin"]) == (3, ORIGIN)
    moments, state_dict = loop.optimizer.state_dict()["state"], state["optimizer"]["state"]
    for index, moment in moments.items():
        for name, value in moment.items():
            assert torch.equal(torch.as_tensor(state_dict[index][name]), torch.as_tensor(value))
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
def test_a_damaged_file_is_one_sentence(tmp_path, complaint, damage):
    path = tmp_path / "state.pt"
    state_of_a_run(path)
    path.write_bytes(damage(path.read_bytes()))
    assert complaint(load_state, path, CPU) == f"{path} is damaged. Delete it to begin the run again from its start."


def test_a_file_of_something_else_is_one_sentence(tmp_path, complaint):
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


def test_the_state_before_stays_when_the_disk_is_full(tmp_path, complaint, monkeypatch):
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


def test_what_changed_since_the_beginning_is_named():
    assert changes_since(ORIGIN, ORIGIN) == []
    assert changes_since(ORIGIN, {**ORIGIN, "dataset_folder": "456"}) == ["images"]
    assert changes_since(ORIGIN, {"checkpoint": "x", "dataset_folder": "y"}) == ["checkpoint", "images"]
