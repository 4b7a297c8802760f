"""A plan, and what stands in its way, as one compact block."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from lib_lora_train.config import Problem, settings
from lib_lora_train.training.plan import Plan, megabytes
from lib_lora_train.ui.text import escaped, facts, sentence

MOST_BUCKETS = 4
Shape = TypeVar("Shape", bound=tuple[int, int])

EMPTY_AT_FIRST = frozenset(("name", "dataset_folder", "prompt_pairs", "checkpoint", "trigger_word", "class_word"))
"""Nobody has done anything wrong while these are not filled in yet."""


def plan_html(plan: Plan, *, measuring: bool = False) -> str:
    """What the run would do. `measuring` says that its time is being found."""
    memory = megabytes(plan.memory.total)
    have = f" of {megabytes(plan.memory_free)} free" if plan.memory_free is not None else ""
    unknown = "being measured" if measuring else "known after the first steps"
    block = facts(
        [
            ("Teaches", plan.about) if plan.about else ("Images", _images(plan)),
            ("Buckets", buckets_text(plan.buckets)),
            ("Steps", f"{plan.steps:,} in {plan.epochs} {_plural(plan.epochs, 'epoch')}"),
            ("Time", plan.time if plan.seconds_per_step else unknown),
            ("Memory", f"about {memory}{have}"),
            ("Files", f"{plan.files} of {megabytes(plan.file_bytes)}"),
            ("Checkpoint", f"{plan.checkpoint}, on {plan.device}"),
        ]
    )
    notes = "".join(f'<p class="lora_train_note">{escaped(warning)}</p>' for warning in plan.warnings)
    return f'<section class="lora_train_plan" aria-label="Plan">{block}{notes}</section>'


def buckets_text(buckets: Mapping[Shape, int]) -> str:
    """512x512 (12), 448x576 (3) and 2 more: the shapes, and how many images an epoch shows in each."""
    ordered = sorted(buckets.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{width}x{height} ({count})" for (width, height), count in ordered[:MOST_BUCKETS])
    rest = len(ordered) - MOST_BUCKETS
    return f"{shown} and {rest} more" if rest > 0 else shown


def blocked_html(problems: Iterable[Problem], fields: Collection[str]) -> str:
    """What stands where the plan would, when there is none: the problems that belong to none of the `fields` in view."""
    problems = list(problems)
    only_empty = all(problem.field in EMPTY_AT_FIRST for problem in problems)
    if only_empty and all(problem.field in fields for problem in problems):
        needed = "prompt_pairs" if any(problem.field == "prompt_pairs" for problem in problems) else "dataset_folder"
        return f'<section class="lora_train_plan" aria-label="Plan"><p class="lora_train_hint">Here stands what the run will do, once it has a name and {needed}.</p></section>'
    labels = {field.name: field.info.label for field in settings()}
    elsewhere = [problem for problem in problems if problem.field not in fields]
    texts = [f"{labels[p.field]} {p.message}" if p.field in labels else sentence(p.message) for p in elsewhere]
    here = len(problems) - len(elsewhere)
    if here:
        texts.insert(
            0, f"{here} {_plural(here, 'setting')} to mend; see the red text beside {'it' if here == 1 else 'them'}."
        )
    items = "".join(f'<p class="lora_train_bad">{escaped(text)}</p>' for text in texts)
    return f'<section class="lora_train_plan" aria-label="Plan">{items}</section>'


def _images(plan: Plan) -> str:
    parts = [f"{plan.images} to learn"]
    if plan.validation_images:
        parts.append(f"{plan.validation_images} held out")
    if plan.regularization_images:
        parts.append(f"{plan.regularization_images} for regularisation")
    return f"{', '.join(parts)}; {plan.shown_per_epoch} shown per epoch"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
