"""Problems of a configuration that show without touching the disk, as data."""

from __future__ import annotations

import math
import re
import typing
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from lib_lora_train.config.sample_prompts import check_sample_prompt
from lib_lora_train.config.schema import Field
from lib_lora_train.config.settings import DatasetConfig, SampleConfig
from lib_lora_train.errors import Problem, UserError

if typing.TYPE_CHECKING:
    from lib_lora_train.config.train_config import TrainConfig

ARROW = "->"
LONG_ARROW = re.compile(r"--+>|->>+")
OTHER_ARROW = re.compile(r"-\s+>|=+\s?>|[–—−]\s?>|[→⇒➔➜⟶]|>")
"""What people write instead of `->`. It counts only in a line without `->`, since tags such as >_< contain it, too."""

NAME_PATTERN = re.compile(r"[^\W_](?:[\w .+-]*[\w+-])?")
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul", "none", "new", "cache", "all"}
    | {f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10)}
)
LONGEST_NAME, LONGEST_NAME_BYTES = 100, 200
"""Characters, and bytes as a file name: file systems allow 255, and an epoch's number and the extension need room."""


def problems_of(config: TrainConfig, fields: Iterable[Field]) -> Iterator[Problem]:
    """Every problem of `config`, whose settings are `fields`.

    What is wrong with a value by itself comes alone: advice for its combination with others would contradict it.
    """
    alone = [*_range_problems(config.to_flat(), fields), *_name_problems(config.run.name)]
    invalid = {problem.field for problem in alone}
    yield from alone
    yield from (problem for problem in _combination_problems(config) if problem.field not in invalid)


def _range_problems(flat: dict[str, Any], fields: Iterable[Field]) -> Iterator[Problem]:
    for item in fields:
        value, info = flat[item.name], item.info
        if not _is_unicode(value):
            yield Problem(item.name, "Contains characters that are not valid UTF-8. Type it again, or rename the file.")
        elif info.choices and value not in info.choices:
            yield Problem(item.name, f"Must be one of {', '.join(map(str, info.choices))} (is {value}).")
        elif info.path and any(unicodedata.category(character) == "Cc" for character in value):
            yield Problem(
                item.name,
                f"Contains a control character ({value!r}). In a settings file, write the path with / or between single quotes.",
            )
        elif isinstance(value, float) and not math.isfinite(value):
            yield Problem(item.name, f"Must be a finite number (is {value}).")
        elif info.minimum is not None and value < info.minimum:
            yield Problem(item.name, f"Must be at least {info.minimum:.10g} (is {_number(value)}).")
        elif info.maximum is not None and value > info.maximum:
            yield Problem(item.name, f"Must be at most {info.maximum:.10g} (is {_number(value)}).")


def _is_unicode(value: Any) -> bool:
    """Whether a text, or every text in a list, can be written to a file."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _name_problems(name: str) -> Iterator[Problem]:
    size = len(name.encode(errors="replace"))
    if not name:
        yield Problem("name", "Enter a name for the adapter, such as mycat.")
    elif not NAME_PATTERN.fullmatch(name) or ".." in name:
        yield Problem("name", "Use letters, digits, spaces and . _ - + only, and start with a letter or digit.")
    elif name.lower().split(".")[0] in RESERVED_NAMES:
        yield Problem("name", f"{name!r} is a reserved word. Choose another name.")
    elif len(name) > LONGEST_NAME:
        yield Problem("name", f"Must have at most {LONGEST_NAME} characters (has {len(name)}).")
    elif size > LONGEST_NAME_BYTES:
        fitting = len(name) * LONGEST_NAME_BYTES // size
        yield Problem("name", f"Is too long for a file name ({size} bytes). Use at most {fitting} of these letters.")
    elif re.search(r"-(\d{6}|step\d{8})$", name):
        yield Problem("name", f"{name!r} ends like the file of an epoch. Choose another name.")


def _combination_problems(config: TrainConfig) -> Iterator[Problem]:
    yield from _optimizer_problems(config)
    yield from _resolution_problems(config.dataset)
    yield from _prompt_problems(config)
    yield from _dataset_problems(config)
    yield from _sample_problems(config.samples)
    if config.run.training_method == "dreambooth":
        yield from _dreambooth_problems(config.dataset)
    if config.adapter.trigger_vectors:
        yield from _trigger_problems(config.dataset.trigger_word.strip())


def _optimizer_problems(config: TrainConfig) -> Iterator[Problem]:
    objective, optimizer = config.objective, config.optimizer
    if objective.min_timestep >= objective.max_timestep:
        yield Problem(
            "min_timestep", f"Must be below the max timestep, {objective.max_timestep} (is {objective.min_timestep})."
        )
    trains_text = config.adapter.train_text_encoder and optimizer.text_encoder_learning_rate > 0
    if optimizer.learning_rate == 0 and not trains_text:
        yield Problem("learning_rate", "Nothing is trained with a learning rate of 0. Use 1e-4, for example.")
    elif optimizer.learning_rate > 0.05:
        yield Problem(
            "learning_rate", f"Training ends in NaN above 0.05 (is {optimizer.learning_rate:g}). Use 1e-4, for example."
        )


def _resolution_problems(data: DatasetConfig) -> Iterator[Problem]:
    if data.resolution % 8:
        yield Problem("resolution", f"Must be a multiple of 8 (is {data.resolution}). Use {data.resolution // 8 * 8}.")
    if not data.enable_bucket:
        return
    if data.bucket_reso_steps % 8:
        yield Problem("bucket_reso_steps", f"Must be a multiple of 8 (is {data.bucket_reso_steps}). Use 64.")
    elif data.resolution < data.bucket_reso_steps:
        yield Problem(
            "bucket_reso_steps",
            f"Must be at most the resolution, {data.resolution} (is {data.bucket_reso_steps}). Lower it, or turn bucketing off.",
        )
    if data.min_bucket_reso > data.resolution:
        yield Problem(
            "min_bucket_reso", f"Must be at most the resolution, {data.resolution} (is {data.min_bucket_reso}). Use 0."
        )
    if data.max_bucket_reso and data.max_bucket_reso < data.resolution:
        yield Problem(
            "max_bucket_reso", f"Must be at least the resolution, {data.resolution} (is {data.max_bucket_reso}). Use 0."
        )


def _prompt_problems(config: TrainConfig) -> Iterator[Problem]:
    prompts = config.prompts
    if not prompts.prompt_pairs:
        yield Problem("prompt_pairs", "Enter at least one pair per line, such as circle -> square.")
        return
    arrow_problems = (_arrow_problem(line, config) for line in prompts.prompt_pairs)
    yield from [problem for problem in arrow_problems if problem][:1]
    count = len(prompts.prompt_pairs)
    for name, given in (("positive_prompts", prompts.positive_prompts), ("target_prompts", prompts.target_prompts)):
        if len(given) not in (0, 1, count):
            yield Problem(name, f"Enter one prompt for all {count} pairs, or one for each (has {len(given)}).")


def _arrow_problem(line: str, config: TrainConfig) -> Problem | None:
    """What is wrong with the arrow of a prompt pair."""
    if wrong := LONG_ARROW.search(line) or (ARROW not in line and OTHER_ARROW.search(line)):
        return Problem("prompt_pairs", f"{line!r} has the arrow {wrong[0]}. Write it as {ARROW}.")
    if line.count(ARROW) > 1:
        return Problem("prompt_pairs", f"{line!r} has {line.count(ARROW)} arrows. Write one pair per line.")
    if ARROW in line:
        return None
    if config.run.training_method == "text_slider":
        return Problem("prompt_pairs", f"{line!r} has one end only. Write: low end {ARROW} high end.")
    if config.run.training_method == "leco" and config.prompts.action == "enhance":
        return None
    return Problem(
        "prompt_pairs", f"{line!r} has no arrow. Write: prompt {ARROW} replacement. To erase: prompt {ARROW}"
    )


def _dataset_problems(config: TrainConfig) -> Iterator[Problem]:
    data, epochs = config.dataset, config.training.epochs
    if data.first_pass_epochs >= epochs:
        yield Problem(
            "first_pass_epochs", f"Must be below the epochs of both passes, {epochs} (is {data.first_pass_epochs})."
        )
    if not data.after_folder and not data.after_suffix.strip():
        yield Problem("after_suffix", "Enter a suffix or an after folder, so that pairs can be found.")
    generated = config.run.training_method == "dreambooth" and data.num_class_images
    if data.prior_loss_weight == 0 and (data.regularization_folder or generated):
        yield Problem(
            "prior_loss_weight", "Regularization images have no effect with a weight of 0. Use 1, or leave them out."
        )


def _sample_problems(samples: SampleConfig) -> Iterator[Problem]:
    for line in samples.sample_prompts:
        try:
            check_sample_prompt(line)
        except UserError as error:
            yield from error.problems


def _dreambooth_problems(data: DatasetConfig) -> Iterator[Problem]:
    trigger_word, class_word = data.trigger_word.strip(), data.class_word.strip()
    if not trigger_word:
        yield Problem("trigger_word", "Enter a rare word for your subject, such as sks.")
    if not class_word:
        yield Problem("class_word", "Enter what your subject is, such as dog.")
    elif trigger_word and trigger_word.casefold() == class_word.casefold():
        yield Problem(
            "class_word",
            f"Must differ from the trigger word, {trigger_word!r}. Enter what your subject is, such as dog.",
        )
    for prompt in data.class_prompts:
        if trigger_word and re.search(rf"(?<!\w){re.escape(trigger_word)}(?!\w)", prompt, re.IGNORECASE):
            yield Problem("class_prompts", f"{prompt!r} contains the trigger word. Class prompts must not.")


def _trigger_problems(trigger_word: str) -> Iterator[Problem]:
    """What keeps a trigger word from being trained as an embedding, and from being a name in a file."""
    if not trigger_word:
        yield Problem("trigger_word", "Enter the word whose embedding is trained, such as sks.")
    elif not re.fullmatch(r"[\w -]+", trigger_word):
        yield Problem(
            "trigger_word", f"{trigger_word!r} cannot be an embedding. Use letters, digits, spaces, _ and - only."
        )
