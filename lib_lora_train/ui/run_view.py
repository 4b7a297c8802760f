"""A run and the queue as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib_lora_train.evaluation.best_epoch import Recommendation, recommend
from lib_lora_train.queue import Job, State
from lib_lora_train.training.events import GeneratingClassImages, Sampled, Saved, Validated, Warned
from lib_lora_train.training.plan import duration
from lib_lora_train.ui.html import escaped, facts_html, hint_html, paragraph, section

MAX_SAMPLES = 60
MAX_WARNINGS = 3
IDLE = "Nothing is training. A run appears here when you press Train, and is still here after you reload the page."
WORDS = {
    State.QUEUED: "Queued",
    State.PREPARING: "Preparing",
    State.TRAINING: "Training",
    State.PAUSED: "Paused",
    State.FINISHED: "Finished",
    State.STOPPED: "Stopped",
    State.FAILED: "Failed",
}
STATE_WORDS = (*WORDS.values(), "Pausing", "Waiting", "Stopping")


class Headline(NamedTuple):
    """What a run is doing: one of STATE_WORDS, and a sentence if there is more to say."""

    word: str
    detail: str = ""


def status_html(job: Job | None, memory: str = "") -> str:
    """The run's state, progress bar and figures. `memory`: the memory in use, as text."""
    if job is None:
        return section("Run", "status", hint_html(IDLE))
    word, detail = headline(job)
    name = f'<strong class="lora_train_name">{escaped(job.name)}</strong>'
    separator = "" if word.endswith("ing") else ":"  # Training star, but Paused: star
    head = f'<p class="lora_train_headline"><span>{word}</span>{separator} {name}</p>'
    details = "".join(paragraph(line, "error" if job.state == State.FAILED else "hint") for line in detail.splitlines())
    warnings = "".join(paragraph(text, "warning") for text in _warnings(job))
    return section("Run", "status", head + details + _bar(job) + facts_html(figures(job, memory)) + warnings)


def headline(job: Job) -> Headline:
    """What the run is doing now."""
    if job.state.is_done:
        return _result(job)
    if job.control.stop_requested:
        return Headline("Stopping", "What has been trained so far is being saved.")
    if job.state == State.PREPARING:
        return Headline("Preparing", _preparation(job))
    if job.control.paused and job.state != State.QUEUED:
        return Headline("Paused" if job.state == State.PAUSED else "Pausing")
    if job.state == State.PAUSED:
        return Headline("Waiting", job.message)
    return Headline(WORDS[job.state])


def figures(job: Job, memory: str) -> list[tuple[str, str]]:
    """(label, value) of step, epoch, loss, speed, time left and memory. The value is "" if it is unknown."""
    if not job.steps:
        return []
    last, epochs, left = job.progress, job.config.training.epochs, job.seconds_left
    training = job.state == State.TRAINING
    return [
        ("Step", f"{job.step:,} of {job.steps:,}"),
        ("Epoch", f"{last.epoch if last else 1} of {epochs}"),
        ("Loss", f"{last.loss:.4f}" if last else ""),
        ("Speed", speed(last.rate) if last and last.rate and training else ""),
        ("Time left", f"about {duration(left)}" if left is not None and training and job.step < job.steps else ""),
        ("Memory in use", memory if not job.state.is_done else ""),
    ]


def speed(rate: float) -> str:
    """3.2 it/s, or 1.9 s/it if a step takes longer than a second. `rate` is in steps per second."""
    return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def announcement(job: Job | None) -> str:
    """The text for screen readers. It changes with the state and the epoch, not with every step."""
    if job is None:
        return ""
    epoch = f", epoch {job.progress.epoch}" if job.progress and not job.state.is_done else ""
    return f"{job.name}: {WORDS[job.state].lower()}{epoch}"


def recommendation(job: Job) -> Recommendation | None:
    """The best of the epochs that have been saved, or None before the first."""
    saved = _saved(job)
    validated = {event.epoch: event for event in job.events if isinstance(event, Validated)}
    return recommend(validated, sorted(saved)) if saved else None


def lora_tag(stem: str, strength: float = 0.8) -> str:
    """The tag to type into a prompt; `stem` is the adapter's file name without its extension."""
    return f"<lora:{stem}:{strength:g}>"


def samples(job: Job) -> list[tuple[str, str]]:
    """(file, caption) of the sample images that exist in the run's folder, newest first.

    The page shows these files to everyone, and a log may come from elsewhere, so of a logged path only its name counts.
    """
    folder = job.folder.samples.resolve()
    by_epoch = {event.epoch: event for event in job.events if isinstance(event, Sampled)}
    found = []
    for epoch in sorted(by_epoch, reverse=True):
        for path, prompt in zip(by_epoch[epoch].paths, by_epoch[epoch].prompts, strict=False):
            found.append(((folder / Path(path).name).resolve(), f"Epoch {epoch}: {prompt}"))
    return [(str(path), caption) for path, caption in found[:MAX_SAMPLES] if path.parent == folder and path.is_file()]


def queue_html(jobs: Iterable[Job]) -> str:
    """A table of the runs since the program started, newest first; "" if there are none."""
    rows = "".join(
        f"<tr><td>{escaped(job.name)}</td><td>{escaped(headline(job).word)}</td><td>{_steps(job)}</td>"
        f"<td>{escaped(job.message)}</td></tr>"
        for job in reversed(list(jobs))
    )
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Run", "State", "Steps", "Message"))
    return (
        '<table class="lora_train_queue"><caption>Runs since the program started</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def poll_status_html(values: Mapping[str, object]) -> str:
    """An invisible element that javascript/lora_train.js reads; each value is a data attribute."""
    data = " ".join(f'data-{name}="{escaped(value)}"' for name, value in values.items())
    return f'<div id="lora_train_poll_status" {data}></div>'


def _preparation(job: Job) -> str:
    event = job.preparing
    if event is None:
        return ""
    count = f"{event.done} of {event.total}"
    if isinstance(event, GeneratingClassImages):
        return f"Generating class images: {count}. They are saved in {event.folder}."
    return f"Encoding {event.what}: {count}."


def _result(job: Job) -> Headline:
    word = WORDS[job.state]
    if job.state == State.FAILED:
        return Headline(word, job.message)
    if job.state == State.STOPPED:
        return Headline(word, "What was trained is saved. To continue, select the run under Unfinished runs.")
    best = recommendation(job)
    return Headline(word, f"{best.reason}\nTag: {lora_tag(_saved(job)[best.epoch])}" if best else "")


def _saved(job: Job) -> dict[int, str]:
    """Epoch -> the name in its tag."""
    return {event.epoch: Path(event.path).stem for event in job.events if isinstance(event, Saved) and event.epoch}


def _bar(job: Job) -> str:
    label, done, total = "Steps done", job.step, job.steps
    if job.state == State.PREPARING and job.preparing:
        generating = isinstance(job.preparing, GeneratingClassImages)
        label = "Class images generated" if generating else "Images and captions encoded"
        done, total = job.preparing.done, job.preparing.total
    percent = round(100 * min(max(done / max(total, 1), 0.0), 1.0))
    return (
        f'<div class="lora_train_bar" role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
    )


def _warnings(job: Job) -> list[str]:
    texts = dict.fromkeys(event.message for event in job.events if isinstance(event, Warned))
    return list(texts)[-MAX_WARNINGS:]


def _steps(job: Job) -> str:
    return f"{job.step:,} of {job.steps:,}" if job.steps else ""
