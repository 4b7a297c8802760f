"""Sets a prompt's tag to a chosen run, epoch and strength.

Whatever is not chosen is taken from the tag in the prompt; without a tag, it is strength 1 and the last epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.lora_tag import Tag, tags, with_one_tag
from lib_lora_train.evaluation.runs import LAST, AdapterOfRun, Epoch, SavedRuns


@dataclass(frozen=True)
class Choice:
    """What has been chosen so far; None is taken from the prompt."""

    run: str | None = None
    epoch: Epoch | None = None
    strength: float | None = None


def our_tags(prompt: str, runs: SavedRuns) -> Iterator[tuple[Tag, AdapterOfRun]]:
    """The tags in `prompt` that are for a run's adapter."""
    for tag in tags(prompt):
        if adapter := runs.adapter_of(tag.name):
            yield tag, adapter


def replaced_runs(prompt: str, runs: SavedRuns, alternatives: frozenset[str]) -> frozenset[str]:
    """The runs whose tags in `prompt` are replaced by one tag.

    These are the `alternatives`, of which a cell has only one. If the prompt has a tag of none of them, its first run
    is replaced, too. Tags of other runs are kept: they may be a style that every cell should have.
    """
    tagged = [adapter.run for _, adapter in our_tags(prompt, runs)]
    return alternatives if not tagged or alternatives.intersection(tagged) else alternatives | {tagged[0]}


def with_choice(prompt: str, choice: Choice, runs: SavedRuns, replaced: frozenset[str]) -> str:
    """`prompt` with exactly one tag, as chosen, in place of all tags of the runs in `replaced`.

    Raises:
        UserError: when neither choice nor prompt has a run, or the run or the epoch does not exist.
    """
    tagged = next((adapter for _, adapter in our_tags(prompt, runs) if adapter.run in replaced), None)
    adapter = _adapter(choice, tagged, runs)
    ours = replaced | {adapter.run}
    return with_one_tag(
        prompt,
        lambda name: (found := runs.adapter_of(name)) is not None and found.run in ours,
        adapter.stem,
        choice.strength,
    )


def _adapter(choice: Choice, tagged: AdapterOfRun | None, runs: SavedRuns) -> AdapterOfRun:
    if choice.run is None and tagged is None:
        raise UserError(
            "The prompt has no tag of a run, and no axis sets one. "
            "Put a tag such as <lora:NAME:1> into the prompt, or add the axis [LoRA Train] Run."
        )
    if tagged is not None and choice.run is None and choice.epoch is None:
        return tagged
    name = choice.run if choice.run is not None else tagged.run if tagged else ""
    epoch = choice.epoch if choice.epoch is not None else tagged.epoch if tagged else None
    return runs.run(name).adapter(LAST if epoch is None else epoch)
