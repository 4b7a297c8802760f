"""Settings that were changed but have no effect, because another setting turns them off. They are said in the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lib_lora_train.config import TrainConfig, settings


@dataclass(frozen=True)
class Dependency:
    """Settings that have an effect only with others.

    Attributes:
        names: the settings.
        works: whether they have an effect.
        reason: why not, in the words of the settings.
    """

    names: tuple[str, ...]
    works: Callable[[TrainConfig], bool]
    reason: str


DEPENDENCIES = (
    Dependency(("keep_tokens",), lambda c: c.dataset.shuffle_caption, "shuffle_caption is off"),
    Dependency(
        ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"),
        lambda c: c.dataset.enable_bucket,
        "enable_bucket is off",
    ),
    Dependency(("after_suffix",), lambda c: not c.dataset.after_folder, "after_folder is set"),
    Dependency(("class_prompts",), lambda c: not c.dataset.regularization_folder, "regularization_folder is set"),
    Dependency(
        ("validation_images",),
        lambda c: c.dataset.validation_images <= 0 or c.samples.validate_every_n_epochs > 0,
        "validate_every_n_epochs is 0",
    ),
    Dependency(("denoising_guidance_scale",), lambda c: c.prompts.denoising_steps > 0, "denoising_steps is 0"),
    Dependency(("conv_alpha",), lambda c: c.adapter.conv_rank > 0, "conv_rank is 0"),
    Dependency(
        ("rank", "alpha", "conv_rank", "conv_alpha", "targets"),
        lambda c: not c.adapter.continue_from or c.adapter.train_text_encoder,
        "continue_from takes it from its file",
    ),
    Dependency(
        ("rank", "alpha", "targets"),
        lambda c: not (c.adapter.continue_from and c.adapter.train_text_encoder),
        "continue_from takes it from its file, except for text encoder layers that the file lacks",
    ),
    Dependency(
        ("conv_rank",),
        lambda c: not (c.adapter.continue_from and c.adapter.train_text_encoder),
        "continue_from takes it from its file",
    ),
    Dependency(("min_snr_gamma",), lambda c: c.objective.loss_weighting == "min_snr", "loss_weighting is not min_snr"),
    Dependency(("huber_delta",), lambda c: c.objective.loss_type == "huber", "loss_type is not huber"),
    Dependency(
        ("multires_noise_discount",),
        lambda c: c.objective.multires_noise_iterations > 0,
        "multires_noise_iterations is 0",
    ),
    Dependency(("text_encoder_learning_rate",), lambda c: c.adapter.train_text_encoder, "train_text_encoder is off"),
    Dependency(
        ("text_encoder_stop_epoch",),
        lambda c: c.adapter.train_text_encoder or c.adapter.trigger_vectors > 0,
        "neither the text encoder nor a trigger embedding is trained",
    ),
    Dependency(
        ("text_encoder_stop_epoch",),
        lambda c: c.optimizer.text_encoder_stop_epoch < c.training.epochs,
        "the run has no more epochs",
    ),
    Dependency(
        ("embedding_learning_rate",),
        lambda c: c.adapter.trigger_vectors > 0 or bool(c.adapter.continue_from),
        "trigger_vectors is 0",
    ),
    Dependency(
        ("lr_scheduler_num_cycles",),
        lambda c: c.optimizer.lr_scheduler == "cosine_with_restarts",
        "lr_scheduler is not cosine_with_restarts",
    ),
    Dependency(
        ("lr_scheduler_power",), lambda c: c.optimizer.lr_scheduler == "polynomial", "lr_scheduler is not polynomial"
    ),
)


def ineffective_settings(config: TrainConfig) -> list[str]:
    """A sentence for each setting of the training method that was changed from its default and has no effect."""
    flat = config.to_flat()
    changed = {s.name for s in settings() if config.uses(s.name) and flat[s.name] != s.default}
    return [
        f"{name} has no effect: {dependency.reason}."
        for dependency in DEPENDENCIES
        if not dependency.works(config)
        for name in dependency.names
        if name in changed
    ]


def schedule_warnings(config: TrainConfig, steps: int) -> list[str]:
    """What does not suit a run of `steps` steps: the learning rate's schedule, and what is due after it."""
    optimizer, training, warnings = config.optimizer, config.training, []
    warmup, name, cycles = optimizer.lr_warmup_steps, optimizer.lr_scheduler, optimizer.lr_scheduler_num_cycles
    if warmup >= steps > 0:
        warnings.append(
            f"lr_warmup_steps is {warmup}, but the run has only {steps} steps: all of them are warm-up, and the learning rate "
            f"never reaches {optimizer.learning_rate:g}. Lower it to {steps // 10}, for example."
        )
    elif warmup > steps / 2:
        warnings.append(f"Most of the run is warm-up: {warmup} of {steps} steps. Lower lr_warmup_steps.")
    if name == "cosine_with_restarts" and cycles == 1:
        warnings.append(
            "cosine_with_restarts with one cycle is the same as cosine. Set lr_scheduler_num_cycles to 2 or more to restart."
        )
    elif name == "cosine_with_restarts" and cycles > max(steps - warmup, 1):
        warnings.append(
            f"lr_scheduler_num_cycles is {cycles}, more than the {max(steps - warmup, 0)} steps after the warm-up. Lower it."
        )
    if name == "polynomial" and optimizer.lr_scheduler_power == 1:
        warnings.append("polynomial with a power of 1 is the same as linear. Set lr_scheduler_power, to 2 for example.")
    if training.save_every_n_steps >= steps > 0:
        warnings.append(f"save_every_n_steps is {training.save_every_n_steps}, but the run has only {steps} steps.")
    return warnings
