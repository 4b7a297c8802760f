"""At which steps epochs and the run end."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lib_lora_train.config import TrainingConfig


@dataclass(frozen=True)
class EpochSchedule:
    """A run is one sequence of batches through all epochs. A step takes `accumulation` of them, so it can span two epochs.

    Attributes:
        max_steps: the limit on optimizer steps; 0 for none.
    """

    batches_per_epoch: int
    accumulation: int
    epochs: int
    max_steps: int = 0

    @classmethod
    def of(cls, config: TrainingConfig, batches_per_epoch: int) -> EpochSchedule:
        return cls(batches_per_epoch, config.gradient_accumulation, config.epochs, config.max_steps)

    @property
    def steps(self) -> int:
        """Optimizer steps in the run."""
        whole = ceil(self.epochs * self.batches_per_epoch / self.accumulation)
        return min(whole, self.max_steps) if self.max_steps else whole

    def epoch_of(self, step: int) -> int:
        """The epoch (from 1) of the last batch of step `step` (from 1); 1 for step 0."""
        return max(1, min(self.epochs, ceil(step * self.accumulation / self.batches_per_epoch)))

    def ends_epoch(self, step: int) -> bool:
        """Whether this step contains the last batch of an epoch, or of the run."""
        return step == self.steps or self.epochs_over(step) > self.epochs_over(step - 1)

    def epoch_ended(self, step: int) -> int:
        """The epoch that ends in this step, for a step that `ends_epoch`; of a step that spans two epochs, the earlier one."""
        return self.epoch_of(step) if step == self.steps else self.epochs_over(step)

    def next_epoch_end(self, step: int) -> int:
        """The first step after `step` that ends an epoch."""
        after = self.epochs_over(step) + 1
        return min(self.steps, ceil(after * self.batches_per_epoch / self.accumulation))

    def epochs_over(self, step: int) -> int:
        """How many epochs are complete after `step` steps."""
        return step * self.accumulation // self.batches_per_epoch
