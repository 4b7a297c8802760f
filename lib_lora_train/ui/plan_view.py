"""The training plan as HTML, or what to do to get one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from lib_lora_train.config import Problem, settings
from lib_lora_train.training.plan import Plan, megabytes
from lib_lora_train.ui.html import facts_html, hint_html, paragraph, section
from lib_lora_train.wording import counted

MAX_BUCKETS = 4
BucketSize = TypeVar("BucketSize", bound=tuple[int, int])

TO_ENTER = {
    "name": "a name",
    "trigger_word": "a trigger word",
    "class_word": "a class word",
    "prompt_pairs": "prompt pairs",
}
TO_CHOOSE = {"checkpoint": "a checkpoint", "dataset_folder": "images"}
"""Required settings that are empty at first. That they are still empty is not shown as an error."""


def plan_html(plan: Plan, *, measuring: bool = False) -> str:
    """What the run would do. `measuring`: the time per step is being measured."""
    free = f" of {megabytes(plan.memory_free)} free" if plan.memory_free is not None else ""
    unknown = "measuring..." if measuring else "known after the first steps"
    facts = facts_html(
        [
            ("Trains on", plan.about) if plan.about else ("Images", _images(plan)),
            ("Buckets", buckets_text(plan.buckets)),
            ("Steps", f"{plan.steps:,} in {_count(plan.epochs, 'epoch')}"),
            ("Time", plan.time if plan.seconds_per_step else unknown),
            ("Memory", f"about {megabytes(plan.memory.total)}{free}"),
            ("Files", f"{plan.files} of {megabytes(plan.file_bytes)} each"),
            ("Checkpoint", f"{plan.checkpoint}, on {plan.device}"),
        ]
    )
    warnings = "".join(paragraph(warning, "warning") for warning in plan.warnings)
    return section("Training plan", "plan", facts + warnings)


def buckets_text(buckets: Mapping[BucketSize, int]) -> str:
    """512x512 (12), 448x576 (3) and 2 more: the image sizes, each with its number of samples in an epoch."""
    ordered = sorted(buckets.items(), key=lambda pair: -pair[1])
    first = ", ".join(f"{width}x{height} ({count})" for (width, height), count in ordered[:MAX_BUCKETS])
    others = len(ordered) - MAX_BUCKETS
    return f"{first} and {others} more" if others > 0 else first


def no_plan_html(problems: Iterable[Problem], values: Mapping[str, object], visible: Collection[str]) -> str:
    """Why there is no plan.

    Problems of `visible` settings are shown below their controls and only counted here. If nothing is wrong but that
    required settings are empty in `values`, it says what to enter.
    """
    problems = list(problems)
    missing = [problem.field for problem in problems if is_missing(problem, values)]
    if len(missing) == len(problems) and all(field in visible for field in missing):
        return section("Training plan", "plan", hint_html(_what_to_enter(missing)))
    labels = {field.name: field.info.label for field in settings()}
    elsewhere = [problem for problem in problems if problem.field not in visible]
    texts = [f"{labels[p.field]}: {p.message}" if p.field in labels else p.message for p in elsewhere]
    if marked := len(problems) - len(elsewhere):
        needs = "needs" if marked == 1 else "need"
        texts.insert(0, f"{_count(marked, 'setting')} {needs} fixing (marked in red).")
    return section("Training plan", "plan", "".join(paragraph(text, "error") for text in texts))


def is_missing(problem: Problem, values: Mapping[str, object]) -> bool:
    """Whether a problem is only that a required setting is still empty."""
    return problem.field in {*TO_ENTER, *TO_CHOOSE} and not values.get(problem.field)


def _what_to_enter(missing: Collection[str]) -> str:
    """Enter a name and choose images to see the training plan."""
    entered = [noun for field, noun in TO_ENTER.items() if field in missing]
    chosen = [noun for field, noun in TO_CHOOSE.items() if field in missing]
    clauses = [f"{verb} {_joined(nouns)}" for verb, nouns in (("enter", entered), ("choose", chosen)) if nouns]
    text = (", and " if len(entered) > 1 else " and ").join(clauses)
    return f"{text[:1].upper()}{text[1:]} to see the training plan."


def _joined(nouns: Sequence[str]) -> str:
    return f"{', '.join(nouns[:-1])} and {nouns[-1]}" if len(nouns) > 1 else nouns[0]


def _images(plan: Plan) -> str:
    parts = [f"{plan.images} for training"]
    if plan.validation_images:
        parts.append(f"{plan.validation_images} for validation")
    if plan.regularization_images:
        parts.append(f"{plan.regularization_images} for regularization")
    return f"{', '.join(parts)}; {counted(plan.shown_per_epoch, 'sample')} per epoch"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
