"""Which adapter at which strength a prompt asks for, once some of it was chosen.

What was not chosen is read from the tag that stands in the prompt; without one it is strength 1 and the last epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.lora_tag import Tag, tags, with_one_tag
from lib_lora_train.evaluation.runs import LAST, AdapterOfRun, Epoch, SavedRuns


@dataclass(frozen=True)
class Choice:
    """What was chosen so far; None is left to the prompt."""

    run: str | None = None
    epoch: Epoch | None = None
    strength: float | None = None


def our_tags(prompt: str, runs: SavedRuns) -> Iterator[tuple[Tag, AdapterOfRun]]:
    """The tags in `prompt` that stand for a run's adapter."""
    for tag in tags(prompt):
        if adapter := runs.adapter_of(tag.name):
            yield tag, adapter


def targets(prompt: str, runs: SavedRuns, rivals: frozenset[str]) -> frozenset[str]:
    """The runs whose tags in `prompt` give way to the one tag.

    Those are the `rivals`, which take each other's place. Where none of them stands in the prompt, the first run that
    does gives way to them. Tags of further runs stay: a style that is to be seen in every cell.
    """
    standing = [adapter.run for _, adapter in our_tags(prompt, runs)]
    return rivals if not standing or rivals.intersection(standing) else rivals | {standing[0]}


def with_choice(prompt: str, choice: Choice, runs: SavedRuns, targets: frozenset[str]) -> str:
    """`prompt` with exactly one tag of the `targets`, which is as chosen.

    Raises:
        UserError: when no run is known, or the run or the epoch does not exist.
    """
    standing = next((adapter for _, adapter in our_tags(prompt, runs) if adapter.run in targets), None)
    adapter = _adapter(choice, standing, runs)
    modified = targets | {adapter.run}
    return with_one_tag(
        prompt,
        lambda name: (found := runs.adapter_of(name)) is not None and found.run in modified,
        adapter.stem,
        choice.strength,
    )


def _adapter(choice: Choice, standing: AdapterOfRun | None, runs: SavedRuns) -> AdapterOfRun:
    if choice.run is None and standing is None:
        raise UserError(
            "The prompt has no tag of a run and no axis gives one. "
            "Put a tag such as <lora:NAME:1> into the prompt, or add the axis [LoRA Train] Run."
        )
    if standing is not None and choice.run is None and choice.epoch is None:
        return standing
    name = choice.run if choice.run is not None else standing.run if standing else ""
    epoch = choice.epoch if choice.epoch is not None else standing.epoch if standing else None
    return runs.run(name).adapter(LAST if epoch is None else epoch)
