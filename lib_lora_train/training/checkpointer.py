"""Writing what a run has learned: adapter files, and the state that a resume needs."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.formats.kohya import adapter_tensors, save_adapter
from lib_lora_train.adapters.metadata import build_metadata
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training import state as states
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.events import Saved, Warned
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.run import Run
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.tasks import Task


@dataclass
class Checkpointer:
    """Saves the adapter and the resumable state of a run. In several processes, the first one writes."""

    run: Run
    adapter: Adapter
    task: Task
    loop: Loop
    schedule: EpochSchedule
    _state_saved_at: float = field(default_factory=time.monotonic)

    def save_epoch(self) -> None:
        """After the last step of an epoch: the adapter, if this epoch is to be saved, and the state."""
        epoch, every = self.schedule.epoch_ended(self.loop.step), self.run.config.training.save_every_n_epochs
        if self.loop.step == self.schedule.steps:
            self._save_adapter(self.run.folder.final_file, epoch)
        elif every and epoch % every == 0:
            self._save_adapter(self.run.folder.epoch_file(epoch), epoch)
        else:
            self._save_due_step()
        self.save_state()

    def save_between_epochs(self) -> None:
        """After any other slice: what `save_every_n_steps` and `save_state_every_n_minutes` ask for."""
        self._save_due_step()
        if time.monotonic() - self._state_saved_at >= 60 * self.run.config.training.save_state_every_n_minutes:
            self.save_state()

    def save_on_stop(self) -> None:
        """The adapter as it is now, and the state to resume from."""
        self._save_adapter(self.run.folder.step_file(self.loop.step), epoch=0)
        self.save_state()

    def save_state(self) -> None:
        """Writes the resumable state.

        Raises:
            UserError: when the adapter holds NaN, or the disk is full.
        """
        if self.run.is_main:
            if not self.adapter.is_finite():
                raise UserError(nan_message(self.run))
            states.save_state(self.run.folder.state_file, self.adapter, self.loop, self._origin())
        self._state_saved_at = time.monotonic()

    def load_state(self) -> None:
        """Continues from the saved state, where there is one.

        Raises:
            UserError: when the state is damaged, or the run began on another checkpoint.
        """
        if not self.run.folder.state_file.is_file():
            return
        state = states.load_state(self.run.folder.state_file, self.run.checkpoint.device)
        require_checkpoint(self.run.config, self.run.checkpoint, state["origin"])
        if "images" in states.changes_since(state["origin"], self._origin()):
            self.run.emit(Warned("Images or captions changed since the run began. It continues with the new ones."))
        self.adapter.load_state_dict(state["adapter"])
        self.loop.load_state(state)

    def _origin(self) -> dict[str, str]:
        images = hashlib.blake2b(self.task.task_data.identity().encode(), digest_size=16).hexdigest()
        return {"checkpoint": self.run.checkpoint.legacy_hash(), "images": images}

    def _save_due_step(self) -> None:
        every = self.run.config.training.save_every_n_steps
        if every and self.loop.step % every == 0:
            self._save_adapter(self.run.folder.step_file(self.loop.step), epoch=0)

    def _save_adapter(self, path: Path, epoch: int) -> None:
        if self.run.is_main:
            try:
                save_adapter(path, self._tensors(), self._metadata(path, epoch))
            except UserError:  # a full disk, say; the state is often on another disk, and then a resume loses no step
                with contextlib.suppress(UserError):
                    self.save_state()
                raise
            self.run.emit(Saved(str(path), self.loop.step, epoch))
        self.run.accelerator.wait_for_everyone()

    def _tensors(self) -> dict[str, torch.Tensor]:
        return adapter_tensors(self.adapter, self.run.config.adapter.save_precision)

    def _metadata(self, path: Path, epoch: int) -> dict[str, str]:
        step, steps = self.loop.step, self.schedule.steps
        summary, epoch = self.task.dataset_summary(), epoch or self.schedule.epoch_of(step)
        return build_metadata(self.run.config, self.run.checkpoint, summary, path.stem, step, steps, epoch)


def saved_step(folder: RunFolder, checkpoint: SharedCheckpoint) -> int:
    """The step of a run's saved state; 0 when there is none.

    Raises:
        UserError: when the state is damaged, or the run began on another checkpoint.
    """
    if not folder.state_file.is_file():
        return 0
    state = states.load_state(folder.state_file, torch.device("cpu"))
    require_checkpoint(folder.config, checkpoint, state["origin"])
    return int(state["step"])


def require_checkpoint(config: TrainConfig, checkpoint: SharedCheckpoint, origin: dict[str, str]) -> None:
    """Checks that `checkpoint` is the one that `origin` names.

    Raises:
        UserError: when it is another one.
    """
    if states.changes_since(origin, {"checkpoint": checkpoint.legacy_hash()}):
        raise UserError(
            f"{checkpoint.name} is not the checkpoint the run {config.run.name} began on. "
            "Load that checkpoint, or start a new run."
        )


def nan_message(run: Run) -> str:
    """The error message for a loss or a weight that is NaN or infinite."""
    saved = "What was saved before is intact." if run.folder.state_file.exists() else "Nothing was saved yet."
    return (
        f"The loss became NaN at step {run.step}. {saved} Start again with a lower learning_rate (about a third), "
        "or with precision fp32 or bf16."
    )
