"""One run from its settings to its adapters: wires all rooms together, and owns nothing they could own.

    train(config, host, report=print)
    resume(folder, host, report=print)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from lib_lora_train.adapters.file import adapter_tensors, save_adapter
from lib_lora_train.adapters.metadata import describe
from lib_lora_train.config import TrainConfig, raise_problems
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.place import TextToImage
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.parts import Parts
from lib_lora_train.objectives.noise import Share
from lib_lora_train.training import state as states
from lib_lora_train.training.class_images import ClassImages, draw_missing
from lib_lora_train.training.control import Control, StopAskedFor
from lib_lora_train.training.events import (
    Encoding,
    EpochDone,
    Event,
    Finished,
    Paused,
    Previewed,
    Progress,
    Resumed,
    Saved,
    Started,
    Stopped,
    Validated,
    Warned,
)
from lib_lora_train.training.learning import effective_config, make_accelerator, make_adapter
from lib_lora_train.training.lessons import Classroom, Material, material_of
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.notes import notes_on
from lib_lora_train.training.optimizers import make_optimizer, make_schedule
from lib_lora_train.training.pace import Pace
from lib_lora_train.training.previews import preview_drawing, preview_prompts
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.timetable import Timetable

Report = Callable[[Event], None]


OUT_OF_MEMORY = (
    "The device has not enough memory for a step. Use gradient_checkpointing, a smaller batch_size (with "
    "gradient_accumulation for the same effect), or a lower resolution; epochs saved before are still there."
)


def train(
    config: TrainConfig,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: TextToImage | None = None,
) -> Path | None:
    """Runs `config` from its beginning; returns the final adapter, or None when it was stopped.

    `txt2img` is the WebUI's own, where there is one: it draws what images of the class are missing.

    Raises:
        UserError: for every fault of settings, files and numbers; what was saved until then stays.
    """
    config = config.settled()
    material = material_of(config)  # what is wrong with the images is said before anything is drawn
    with _new_folder(config, make_accelerator(host.peek())) as folder:
        return _run(folder, host, material, report, control or Control(), txt2img)


def resume(
    path: Path,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: TextToImage | None = None,
) -> Path | None:
    """Goes on with the run in `path` where it was saved last; the settings are the run's own.

    Raises:
        UserError: as `train`; and when there is no run, it is complete, or its checkpoint is another one now.
    """
    folder = RunFolder.open(path)
    raise_problems(folder.config.problems())
    if folder.is_complete():
        raise UserError(f"The run {folder.config.run.name} is complete: {folder.final_file}. Nothing is left to do.")
    return _run(folder, host, material_of(folder.config), report, control or Control(), txt2img)


def _run(
    folder: RunFolder, host: Host, material: Material, report: Report, control: Control, txt2img: TextToImage | None
) -> Path | None:
    """Images of the class come first: a WebUI draws them itself, which it cannot where the lease takes all its memory.

    Nothing that was peeked at is kept meanwhile: its tensors would stay on the device when the host moves its own away.
    """
    if ClassImages.wanted(folder.config):
        images = ClassImages.of(folder.config, host.peek())
        if images is not None and images.missing():
            if folder.state_file.is_file():
                origin = states.load_state(folder.state_file, torch.device("cpu"))["origin"]
                _require_checkpoint(folder.config, host.peek(), origin)
            if not _drawn(images, folder.config, host, report, control, txt2img):
                report(Stopped(0))
                return None
        if images is not None:
            folder = replace(folder, config=images.told_to(folder.config))
            material = material_of(folder.config)
    with host.lease() as lent:
        return Session(folder, host, lent, material, report, control).run()


def _drawn(
    images: ClassImages, config: TrainConfig, host: Host, report: Report, control: Control, txt2img: TextToImage | None
) -> bool:
    """Whether all are there now; in the first of several processes, which the others wait for."""
    accelerator = make_accelerator(host.peek())
    if accelerator.is_main_process:
        with contextlib.suppress(StopAskedFor):
            draw_missing(images, config, host, control, report, txt2img)
    accelerator.wait_for_everyone()
    return not images.missing()


class Session:
    """A run in progress."""

    def __init__(
        self,
        folder: RunFolder,
        host: Host,
        lent: LentCheckpoint,
        material: Material,
        report: Report,
        control: Control,
    ) -> None:
        self.folder, self.host, self.lent = folder, host, lent
        self.config = folder.config
        self.control = control
        self._report = report
        self.accelerator = make_accelerator(lent)
        self.is_main = self.accelerator.is_main_process
        self.share = Share(self.accelerator.process_index, self.accelerator.num_processes)
        self.material = material
        self._loop: Loop | None = None
        self._stack = contextlib.ExitStack()
        self._state_saved_at = time.monotonic()

    def run(self) -> Path | None:
        """Trains to the end, or until asked to stop."""
        with self._stack:
            try:
                with self._turn():
                    self._prepare()
                self._begin()
                while self.loop.step < self.timetable.steps:
                    self._slice()
            except StopAskedFor:
                self._stop()
                return None
            self.tell(Finished(str(self.folder.final_file), self.loop.step))
            return self.folder.final_file

    @property
    def loop(self) -> Loop:
        """The training loop; there is one once everything is prepared."""
        assert self._loop is not None
        return self._loop

    @property
    def step(self) -> int:
        """Steps done."""
        return self._loop.step if self._loop else 0

    def tell(self, event: Event) -> None:
        """Reports and records, once for all processes."""
        if self.is_main:
            self.folder.record(event)
            self._report(event)

    # What comes before the first step

    def _prepare(self) -> None:
        self.parts = Parts.of(self.lent, self.config.model)
        self.adapter = make_adapter(self.parts, self.config)
        self.config = effective_config(self.config, self.adapter)
        if self.config.training.gradient_checkpointing:
            self.parts.unet.enable_gradient_checkpointing()
            self.parts.unet.train()
        self.lesson = self.material.ready(self._classroom())
        self.material = self.lesson.material
        for warning in (*self.material.warnings, *notes_on(self.lent, self.config)):
            self.tell(Warned(warning))
        self._make_loop()

    def _classroom(self) -> Classroom:
        return Classroom(
            parts=self.parts,
            adapter=self.adapter,
            config=self.config,
            share=self.share,
            stack=self._stack,
            meet=self.accelerator.wait_for_everyone,
            progress=self._report_encoding,
            begin_anew=lambda: self.loop.begin_anew(),
        )

    def _report_encoding(self, done: int, images: int) -> None:
        if self.is_main:
            self._report(Encoding(done, images))

    def _make_loop(self) -> None:
        config, device = self.config, self.lent.device
        self.timetable = Timetable.of(config.training, self.material.batches_per_epoch(self.share.world))
        optimizer = make_optimizer(self.adapter, config.optimizer, device)
        self._loop = Loop(
            accelerator=self.accelerator,
            loss=self.lesson.loss,
            batches=self.lesson.batches,
            parameters=self.adapter.parameters(),
            optimizer=self.accelerator.prepare(optimizer),
            schedule=make_schedule(optimizer, config.optimizer, self.timetable.steps),
            accumulation=config.training.gradient_accumulation,
            max_grad_norm=config.optimizer.max_grad_norm,
        )
        self._stack.callback(self._loop.close)
        self.pace = Pace(steps=10, fixed=True) if self.share.world > 1 else Pace()

    def _begin(self) -> None:
        """Takes up the saved state where there is one, and measures the base where there is none."""
        if self.folder.state_file.is_file():
            self._take_up(states.load_state(self.folder.state_file, self.lent.device))
        self._stop_text_encoder()
        parameters = sum(p.numel() for p in self.adapter.parameters())
        facts = self.material.facts()
        images = facts.images + facts.held_out_images
        self.tell(Started(self.loop.step, self.timetable.steps, self.config.training.epochs, images, parameters))
        if self.loop.step == 0:
            with self.adapter.strength(0):
                self._validate(0)
        elif self.timetable.ends_epoch(self.loop.step):
            epoch = self.timetable.epoch_ended(self.loop.step)
            if epoch not in self.folder.epochs_done():
                self._after_epoch()  # anew, as its adapter may be what could not be written

    def _take_up(self, state: dict) -> None:
        _require_checkpoint(self.config, self.lent, state["origin"])
        if "images" in states.changes_since(state["origin"], self._origin()):
            self.tell(Warned("The images or captions have changed since the run began; it goes on with the new ones."))
        states.take_up(self.adapter, state)
        self.loop.load_state(state)

    def _origin(self) -> dict[str, str]:
        images = hashlib.blake2b(self.material.identity().encode(), digest_size=16).hexdigest()
        return {"checkpoint": self.lent.legacy_hash(), "images": images}

    # Training

    def _slice(self) -> None:
        """Trains for about half a second in one turn with the host, and does what is due then."""
        self._heed_wishes()
        before, until = self.loop.step, self._next_stop()
        with self._turn(), self.adapter.strength(1):  # a lesson may leave another one
            started = time.perf_counter()
            try:
                loss = self.loop.run_until(until)
            except torch.cuda.OutOfMemoryError:
                raise UserError(OUT_OF_MEMORY) from None
            self.pace.note(until - before, time.perf_counter() - started)
        self._stop_text_encoder()
        if not math.isfinite(loss):
            raise UserError(self._nan_message())
        self.tell(Progress(self.loop.step, self.timetable.epoch_of(self.loop.step), loss, self.pace.rate))
        if self.timetable.ends_epoch(self.loop.step):
            self._after_epoch()
        else:
            self._between_epochs()

    def _stop_text_encoder(self) -> None:
        """When its last epoch is over. Slices end with epochs, so this depends on the step alone, resumed or not."""
        last = self.config.optimizer.text_encoder_stop_epoch
        if last and self.timetable.epochs_over(self.loop.step) >= last:
            for weight in self.adapter.text_parameters():
                weight.requires_grad_(False)

    def _heed_wishes(self) -> None:
        """Pauses, with everything saved as for a stop; raises StopAskedFor when the run is to end."""
        if self.control.paused and self.share.world == 1:
            if self.step:
                self._save_state()
            self.tell(Paused(self.step, "You paused it."))
            self.control.wait()
            self.tell(Resumed(self.step))
        if self._asked_to_stop():
            raise StopAskedFor

    def _next_stop(self) -> int:
        step, every = self.loop.step, self.config.training.save_every_steps
        stops = [step + self.pace.steps, self.timetable.next_epoch_end(step)]
        if every:
            stops.append((step // every + 1) * every)
        return min(stops)

    def _nan_message(self) -> str:
        kept = "What was saved before is still there" if self.folder.state_file.exists() else "Nothing was saved yet"
        return (
            f"The loss is no longer a number (NaN) at step {self.loop.step}. {kept}. Begin again with a lower "
            "learning_rate (a third, say), or with precision fp32 or bf16."
        )

    def _asked_to_stop(self) -> bool:
        if self.share.world == 1:
            return self.control.stopping
        wish = torch.tensor(float(self.control.stopping), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wish, reduction="sum") > 0)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The host's turn. While the host cannot give one it says why, and a stop ends the waiting."""
        told: list[str] = []

        def waiting(reason: str) -> None:
            if self.control.stopping:
                raise StopAskedFor
            if reason not in told[-1:]:
                self.tell(Paused(self.step, reason))
                told.append(reason)

        with self.host.turn(waiting):
            if told:
                self.tell(Resumed(self.step))
            yield

    def _stop(self) -> None:
        """Keeps what there is: the state for a resume, and the adapter as it is now."""
        if self.step:
            self._save_adapter(self.folder.step_file(self.step), epoch=0)
            self._save_state()
        self.tell(Stopped(self.step))

    # What follows steps and epochs

    def _between_epochs(self) -> None:
        self._save_step()
        if time.monotonic() - self._state_saved_at >= 60 * self.config.training.state_every_minutes:
            self._save_state()

    def _after_epoch(self) -> None:
        epoch, every = self.timetable.epoch_ended(self.loop.step), self.config.training.save_every_epochs
        if self.loop.step == self.timetable.steps:
            self._save_adapter(self.folder.final_file, epoch)
        elif every and epoch % every == 0:
            self._save_adapter(self.folder.epoch_file(epoch), epoch)
        else:
            self._save_step()
        self._save_state()
        self._measure(epoch)

    def _measure(self, epoch: int) -> None:
        preview, last = self.config.preview, self.loop.step == self.timetable.steps
        if preview.validate_every and (last or epoch % preview.validate_every == 0):
            self._validate(epoch)
        if preview.preview_every and (last or epoch % preview.preview_every == 0):
            self._preview(epoch)
        self.tell(EpochDone(epoch, self.loop.step))

    def _validate(self, epoch: int) -> None:
        if self.is_main and self.lesson.measures and self.config.preview.validate_every:
            with self._turn(), self.accelerator.autocast():
                losses = self.lesson.measured()
            self.tell(Validated(epoch, statistics.fmean(losses), losses))
        self.accelerator.wait_for_everyone()

    def _preview(self, epoch: int) -> None:
        """Draws the previews; a failure costs the pictures, never the run."""
        if self.is_main:
            try:
                with self._turn():
                    self.tell(Previewed(epoch, self._draw_previews(epoch)))
            except StopAskedFor:
                raise
            except Exception as error:
                self.tell(Warned(f"The previews of epoch {epoch} could not be made ({error}). Training goes on."))
        self.accelerator.wait_for_everyone()

    def _draw_previews(self, epoch: int) -> list[str]:
        preview = self.config.preview
        prompts = preview_prompts(self.config, self.material)
        drawing = preview_drawing(self.config, self.lent)
        seeds = [preview.preview_seed] * len(prompts)
        images = self.parts.draw(prompts, preview.preview_negative, seeds, drawing, at_once=1)
        self.folder.samples.mkdir(exist_ok=True)
        paths = [self.folder.samples / f"epoch-{epoch:06d}-{i + 1}.png" for i in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        return [str(path) for path in paths]

    # Saving

    def _save_step(self) -> None:
        """An adapter for `save_every_steps`; where an epoch's file is written the same adapter is not written twice."""
        every = self.config.training.save_every_steps
        if every and self.loop.step % every == 0:
            self._save_adapter(self.folder.step_file(self.loop.step), epoch=0)

    def _save_adapter(self, path: Path, epoch: int) -> None:
        if self.is_main:
            step, steps = self.loop.step, self.timetable.steps
            epoch_now = epoch or self.timetable.epoch_of(step)
            metadata = describe(self.config, self.lent, self.lesson.dataset_facts(), path.stem, step, steps, epoch_now)
            try:
                save_adapter(path, adapter_tensors(self.adapter, self.config.adapter.save_precision), metadata)
            except UserError:  # a full disk, say; the state often lies on another one, and a resume then loses no step
                with contextlib.suppress(UserError):
                    self._save_state()
                raise
            self.tell(Saved(str(path), step, epoch))
        self.accelerator.wait_for_everyone()

    def _save_state(self) -> None:
        if self.is_main:
            if not self.adapter.is_finite():
                raise UserError(self._nan_message())
            states.save_state(self.folder.state_file, self.adapter, self.loop, self._origin())
        self._state_saved_at = time.monotonic()


def _require_checkpoint(config: TrainConfig, lent: LentCheckpoint, origin: dict[str, str]) -> None:
    if states.changes_since(origin, {"checkpoint": lent.legacy_hash()}):
        raise UserError(
            f"{lent.name} is not the checkpoint that the run {config.run.name} began on. "
            "Put the old one back, or begin a new run."
        )


@contextlib.contextmanager
def _new_folder(config: TrainConfig, accelerator: Accelerator) -> Iterator[RunFolder]:
    """A new run's folders; gone again when it fails before it has saved anything, so that its name is free."""
    folder = RunFolder.create(config) if accelerator.is_main_process else RunFolder.at(config)
    accelerator.wait_for_everyone()
    try:
        yield folder
    except BaseException:
        if accelerator.is_main_process:
            folder.remove_empty()
        raise
