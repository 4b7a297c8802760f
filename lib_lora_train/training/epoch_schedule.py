"""At which step an epoch ends, and when the run does: arithmetic on counts, with no model in sight."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lib_lora_train.config import TrainingConfig


@dataclass(frozen=True)
class EpochSchedule:
    """Batches follow one another through all epochs; `accumulation` of them make a step, also across an epoch's end."""

    batches_per_epoch: int
    accumulation: int
    epochs: int
    max_steps: int = 0

    @classmethod
    def of(cls, config: TrainingConfig, batches_per_epoch: int) -> EpochSchedule:
        return cls(batches_per_epoch, config.gradient_accumulation, config.epochs, config.max_steps)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        whole = ceil(self.epochs * self.batches_per_epoch / self.accumulation)
        return min(whole, self.max_steps) if self.max_steps else whole

    def epoch_of(self, step: int) -> int:
        """The epoch (from 1) that step number `step` (from 1) ends in; the first one for step 0."""
        return max(1, min(self.epochs, ceil(step * self.accumulation / self.batches_per_epoch)))

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch's last batch is in this step, or the run's."""
        return step == self.steps or self.epochs_over(step) > self.epochs_over(step - 1)

    def epoch_ended(self, step: int) -> int:
        """The epoch that such a step ends. A step that crosses an epoch's end ends that one, not the one it goes into."""
        return self.epoch_of(step) if step == self.steps else self.epochs_over(step)

    def next_epoch_end(self, step: int) -> int:
        """The first step after `step` that ends an epoch."""
        after = self.epochs_over(step) + 1
        return min(self.steps, ceil(after * self.batches_per_epoch / self.accumulation))

    def epochs_over(self, step: int) -> int:
        """Epochs whose last batch is in the first `step` steps."""
        return step * self.accumulation // self.batches_per_epoch
