"""A run that trains, and the line of runs, in words and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lib_lora_train.evaluation.best_epoch import Recommendation, recommend
from lib_lora_train.queue import Job, State
from lib_lora_train.training.events import Encoding, GeneratingClassImages, Sampled, Saved, Validated, Warned
from lib_lora_train.training.plan import duration
from lib_lora_train.ui.text import escaped, facts

MOST_PREVIEWS = 60
LATEST_WARNINGS = 3
FOLLOW_HELP = "The figures, curve and previews above are of this run, and the buttons act on it."
IDLE = "Nothing is training. A run that is started appears here, also after the page is loaded again."


def status_html(job: Job | None, memory: str = "") -> str:
    """The run's state, its bar and its figures."""
    if job is None:
        return f'<section class="lora_train_status" aria-label="Run"><p class="lora_train_hint">{escaped(IDLE)}</p></section>'
    share = job.step / job.steps if job.steps else 0.0
    if job.state == State.PREPARING and job.preparing:
        share = job.preparing.done / max(job.preparing.total, 1)
    kind = "lora_train_bad" if job.state == State.FAILED else "lora_train_headline"
    head = f'<p class="{kind}"><strong>{escaped(job.name)}</strong> {escaped(headline(job))}</p>'
    warnings = "".join(f'<p class="lora_train_note">{escaped(text)}</p>' for text in _warnings(job))
    body = facts(figures(job, memory))
    return f'<section class="lora_train_status" aria-label="Run">{head}{_bar(job, share)}{body}{warnings}</section>'


def headline(job: Job) -> str:
    """What the run does now, in a few words."""
    if job.state.is_done:
        return _end(job)
    if job.control.stop_requested:
        return "saves what it has learned, and ends."
    if job.state == State.QUEUED:
        return "waits in the line."
    if job.state == State.PREPARING:
        return _preparation(job.preparing)
    if job.control.paused:
        return "is paused." if job.state == State.PAUSED else "pauses after the present steps."
    return f"waits. {job.message}".strip() if job.state == State.PAUSED else "trains."


def _preparation(event: GeneratingClassImages | Encoding | None) -> str:
    if isinstance(event, GeneratingClassImages):
        return f"draws images of the class: {event.done} of {event.total}. They are in {event.folder}."
    return f"encodes the {event.what}: {event.done} of {event.total}." if event else "is getting ready."


def figures(job: Job, memory: str) -> list[tuple[str, str]]:
    """Steps, epoch, loss, speed, time left and memory, as far as they are known."""
    if not job.steps:
        return []
    last, epochs = job.progress, job.config.training.epochs
    left = job.seconds_left
    going = job.state == State.TRAINING
    return [
        ("Step", f"{job.step:,} of {job.steps:,}"),
        ("Epoch", f"{last.epoch} of {epochs}" if last else f"1 of {epochs}"),
        ("Loss", f"{last.loss:.4f}" if last else ""),
        ("Speed", speed(last.rate) if last and last.rate and going else ""),
        ("Time left", f"about {duration(left)}" if left is not None and going and job.step < job.steps else ""),
        ("Memory in use", memory if not job.state.is_done else ""),
    ]


def speed(rate: float) -> str:
    """3.2 it/s, or 1.9 s/it where a step takes longer than a second."""
    return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def announcement(job: Job | None) -> str:
    """What a screen reader says; it changes with the run's state and with each epoch only, not with each step."""
    if job is None:
        return ""
    epoch = f", epoch {job.progress.epoch}" if job.progress and not job.state.is_done else ""
    return f"{job.name}: {job.state.value}{epoch}"


def recommendation(job: Job) -> Recommendation | None:
    """The best of the epochs that were saved so far."""
    saved = _saved(job)
    validated = {event.epoch: event for event in job.events if isinstance(event, Validated)}
    return recommend(validated, sorted(saved)) if saved else None


def tag(stem: str, strength: float = 0.8) -> str:
    """What is typed into a prompt."""
    return f"<lora:{stem}:{strength:g}>"


def previews(job: Job, prompts: list[str]) -> list[tuple[str, str]]:
    """(file, caption) of the previews that are there, newest first."""
    by_epoch = {event.epoch: event.paths for event in job.events if isinstance(event, Sampled)}
    found = []
    for epoch in sorted(by_epoch, reverse=True):
        for place, path in enumerate(by_epoch[epoch]):
            prompt = f": {prompts[place]}" if place < len(prompts) else ""
            found.append((path, f"Epoch {epoch}{prompt}"))
    return [(path, caption) for path, caption in found[:MOST_PREVIEWS] if Path(path).is_file()]


def queue_html(queue: Iterable[Job]) -> str:
    """The runs of this session, the newest first; "" when there is none."""
    rows = "".join(
        f"<tr><td>{escaped(job.name)}</td><td>{escaped(_state_word(job))}</td><td>{_steps(job)}</td>"
        f"<td>{escaped(job.message)}</td></tr>"
        for job in reversed(list(queue))
    )
    if not rows:
        return ""
    head = "<tr><th scope='col'>Run</th><th scope='col'>State</th><th scope='col'>Steps</th><th scope='col'>Message</th></tr>"
    return f'<table class="lora_train_queue"><caption>Runs since the program started</caption><thead>{head}</thead><tbody>{rows}</tbody></table>'


def poll_status_html(facts_for_the_page: Mapping[str, object]) -> str:
    """An element without a look, in which the browser side reads whether there is something to follow."""
    data = " ".join(f'data-{name}="{escaped(value)}"' for name, value in facts_for_the_page.items())
    return f'<div id="lora_train_beacon" {data}></div>'


def _end(job: Job) -> str:
    if job.state == State.FAILED:
        return job.message or "failed."
    best, saved = recommendation(job), _saved(job)
    word = (
        "is finished."
        if job.state == State.FINISHED
        else "was stopped; what it has learned is kept, and it can be resumed."
    )
    if not best or job.state != State.FINISHED:
        return word
    return f"{word} {best.reason} Its tag: {tag(saved[best.epoch])}"


def _saved(job: Job) -> dict[int, str]:
    """Epoch -> the name in its tag."""
    return {event.epoch: Path(event.path).stem for event in job.events if isinstance(event, Saved) and event.epoch}


def _bar(job: Job, share: float) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    label = "Steps done"
    if job.state == State.PREPARING:
        label = "Class images drawn" if isinstance(job.preparing, GeneratingClassImages) else "Images encoded"
    return (
        f'<div class="lora_train_bar" role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
    )


def _warnings(job: Job) -> list[str]:
    texts = dict.fromkeys(event.message for event in job.events if isinstance(event, Warned))
    return list(texts)[-LATEST_WARNINGS:]


def _state_word(job: Job) -> str:
    return "paused" if job.control.paused and not job.state.is_done else job.state.value


def _steps(job: Job) -> str:
    return f"{job.step:,} of {job.steps:,}" if job.steps else ""
