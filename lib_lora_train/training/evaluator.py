"""What is measured and generated after an epoch: the validation loss and sample images."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.files import write_png
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training.control import StopRequested
from lib_lora_train.training.events import Sampled, Validated, Warned
from lib_lora_train.training.run import Run
from lib_lora_train.training.samples import sample_groups, sample_prompts
from lib_lora_train.training.tasks import Task


@dataclass
class Evaluator:
    """Evaluates the adapter of a run. In several processes, the first one does it and the others wait."""

    run: Run
    denoiser: Denoiser
    adapter: Adapter
    task: Task

    def validate_base(self) -> None:
        """The validation loss without the adapter, which epochs are compared with."""
        with self.adapter.strength(0):
            self._validate(0)

    def evaluate_epoch(self, epoch: int, *, last: bool) -> None:
        """Validates and samples as the settings say; always after the `last` epoch unless turned off."""
        settings = self.run.config.samples
        if _is_due(settings.validate_every_n_epochs, epoch, last):
            self._validate(epoch)
        if _is_due(settings.sample_every_n_epochs, epoch, last):
            self._sample(epoch)

    def _validate(self, epoch: int) -> None:
        if self.run.is_main and self.task.measures and self.run.config.samples.validate_every_n_epochs:
            with self.run.gpu_slot(), self.run.checkpoint.autocast():
                losses = self.task.measured()
            self.run.emit(Validated(epoch, statistics.fmean(losses), losses))
        self.run.accelerator.wait_for_everyone()

    def _sample(self, epoch: int) -> None:
        """Generates the sample images. A failure costs the images, not the run."""
        if self.run.is_main:
            try:
                with self.run.gpu_slot():
                    event = self._generate_samples(epoch)
                self.run.emit(event)
            except StopRequested:
                raise
            except Exception as error:
                self.run.emit(Warned(f"Sample images of epoch {epoch} failed ({error}). Training continues."))
        self.run.accelerator.wait_for_everyone()

    def _generate_samples(self, epoch: int) -> Sampled:
        settings = self.run.config.samples
        prompts = sample_prompts(self.run.config, self.task.task_data)
        images = [
            image
            for group in sample_groups(self.run.config, prompts, [settings.sample_seed] * len(prompts))
            for image in generate(self.denoiser, group.prompts, group.negative, group.seeds, group.options, at_once=1)
        ]
        folder = self.run.folder.samples
        paths = [folder / f"epoch-{epoch:06d}-{i + 1}.png" for i in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            write_png(path, image)
        return Sampled(epoch, [str(path) for path in paths], [prompt.text for prompt in prompts])


def _is_due(every: int, epoch: int, last: bool) -> bool:
    return bool(every) and (last or epoch % every == 0)
