"""The HTTP API under /lora-train/v1, with the same settings, jobs and messages as the tab.

    POST   plan                  returns what a run with these settings would do
    POST   runs                  adds a run to the queue
    GET    runs                  lists all runs with their epochs
    GET    runs/NAME             returns one run; with ?since=N also its events from number N on
    POST   runs/NAME/compare     generates the grid of the run's epochs and returns it with the best epoch
    POST   runs/NAME/ACTION      pause, continue, stop, resume or discard

Settings are a JSON object with the names of docs/settings.md. Errors have status 422 and all problems at once:
{"problems": [{"field": "rank", "message": "..."}]}. With --api-auth, requests need one of its names and passwords.
"""

from __future__ import annotations

import base64
import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from fastapi import Body, Depends, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from lib_lora_train.config import CompareConfig, Problem, raise_problems
from lib_lora_train.errors import UserError
from lib_lora_train.queue import Job, State
from lib_lora_train.service import SavedRun, TrainingService

PREFIX = "/lora-train/v1"
INVALID, NOT_FOUND = 422, 404


def add_routes(app: Any, service: TrainingService, credentials: str = "") -> None:
    """Adds the API to the FastAPI `app`. `credentials` are those of --api-auth: name:password,name:password."""
    guard = [Depends(_login(credentials))] if credentials else []

    def route(method: str, path: str, endpoint: Callable[..., Any]) -> None:
        app.add_api_route(f"{PREFIX}/{path}", endpoint, methods=[method], dependencies=guard)

    def plan(settings: dict[str, Any] = Body()) -> Any:
        return _response(lambda: _plan_json(service, settings))

    def start(settings: dict[str, Any] = Body()) -> Any:
        return _response(lambda: _job_json(service.start(settings)))

    def runs() -> Any:
        return _response(lambda: _all_json(service))

    def run(name: str, since: int = 0) -> Any:
        return _response(lambda: _one_json(service, name, since), NOT_FOUND)

    def compare(name: str, options: dict[str, Any] = Body(default={})) -> Any:
        return _response(lambda: _compare_json(service, name, options))

    def act(name: str, action: str) -> Any:
        return _response(lambda: _act(service, name, action))

    route("POST", "plan", plan)
    route("POST", "runs", start)
    route("GET", "runs", runs)
    route("GET", "runs/{name}", run)
    route("POST", "runs/{name}/compare", compare)
    route("POST", "runs/{name}/{action}", act)


def _response(work: Callable[[], Any], status: int = INVALID) -> Any:
    """The result of `work`, or its problems with the given status."""
    try:
        return work()
    except UserError as error:
        problems = [dataclasses.asdict(problem) for problem in error.problems]
        return JSONResponse({"problems": problems}, status_code=status)


def _plan_json(service: TrainingService, settings: dict[str, Any]) -> dict[str, Any]:
    timed = bool(settings.pop("timed", False))
    plan = service.plan(settings, timed=timed)
    buckets = [{"width": size.width, "height": size.height, "shown": count} for size, count in plan.buckets.items()]
    memory = {**dataclasses.asdict(plan.memory), "total": plan.memory.total}
    return {
        **dataclasses.asdict(dataclasses.replace(plan, buckets={})),
        "buckets": buckets,
        "memory": memory,
        "text": str(plan),
    }


def _all_json(service: TrainingService) -> list[dict[str, Any]]:
    """The jobs of the queue and the runs on disk, each once."""
    queue = {job.name: job for job in service.queue.all()}
    runs = {run.name: run for run in service.runs()}
    return [_run_json(name, runs.get(name), queue.get(name)) for name in dict.fromkeys([*queue, *runs])]


def _one_json(service: TrainingService, name: str, since: int) -> dict[str, Any]:
    """The run of this name. A queued run has no folder yet."""
    job = next((job for job in service.queue.all() if job.name == name), None)
    try:
        return _run_json(name, service.run(name), job, since)
    except UserError:
        if job is None:
            raise
        return _run_json(name, None, job, since)


def _run_json(name: str, run: SavedRun | None, job: Job | None, since: int | None = None) -> dict[str, Any]:
    """A run as it is on disk, with its job if it is in the queue."""
    best = run.recommendation if run else None
    return {
        "name": name,
        "complete": run.complete if run else False,
        "epochs": [{"epoch": point.epoch, "file": point.path.name} for point in run.points] if run else [],
        "validation_loss": {str(epoch): event.loss for epoch, event in sorted(run.validated.items())} if run else {},
        "recommended": dataclasses.asdict(best) if best else None,
        "job": _job_json(job, since) if job else None,
    }


def _job_json(job: Job, since: int | None = None) -> dict[str, Any]:
    last = job.progress
    return {
        "name": job.name,
        "state": job.state.value,
        "message": job.message,
        "preparing": _event_json(job.preparing) if job.preparing and job.state == State.PREPARING else None,
        "step": job.step,
        "steps": job.steps,
        "epoch": last.epoch if last else 0,
        "loss": last.loss if last else None,
        "steps_per_second": last.rate if last else None,
        "seconds_left": job.seconds_left,
        "event_count": len(job.events),
        **({} if since is None else {"events": [_event_json(event) for event in job.events[max(0, since) :]]}),
    }


def _event_json(event: Any) -> dict[str, Any]:
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


def _compare_json(service: TrainingService, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The grid as a PNG in base64, as in the WebUI's own API."""
    comparison = service.compare(name, _compare_options(values))
    grid = base64.b64encode(comparison.grid.read_bytes()).decode()
    best = dataclasses.asdict(comparison.recommendation)
    return {"name": name, "recommended": best, "file": comparison.recommended_file.name, "grid": grid}


def _compare_options(values: dict[str, Any]) -> CompareConfig:
    """Strengths, prompts and seed. Callers cannot choose where the grid is written."""
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "strengths": (lambda value: _list_of((int, float), value) and bool(value), "must be a list of numbers."),
        "prompts": (lambda value: _list_of(str, value), "must be a list of strings."),
        "seed": (
            lambda value: isinstance(value, int) and 0 <= value < 2**32,
            "must be a whole number, 0 to 4294967295.",
        ),
    }
    problems = []
    for name, value in values.items():
        if name not in kinds:
            problems.append(Problem("", f"A comparison has no setting {name}. It has: {', '.join(kinds)}."))
        elif not kinds[name][0](value):
            problems.append(Problem("", f"{name} is {value!r} but {kinds[name][1]}"))
    raise_problems(problems)
    return CompareConfig(**values)


def _list_of(kind: Any, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def _act(service: TrainingService, name: str, action: str) -> Any:
    actions: dict[str, Callable[[str], Any]] = {
        "pause": service.queue.pause,
        "continue": service.queue.unpause,
        "stop": service.queue.stop,
        "discard": service.queue.discard,
        "resume": service.resume,
    }
    if action not in actions:
        raise UserError(f"There is no action {action!r}. There are: {', '.join(actions)}.")
    actions[action](name)
    job = next((job for job in service.queue.all() if job.name == name), None)
    return _job_json(job) if job else {"name": name, "state": "discarded"}


def _login(credentials: str) -> Callable[..., None]:
    """Requires one of the names and passwords, as the WebUI's own API does (api.py:279)."""
    known = dict(pair.split(":", 1) for pair in credentials.split(",") if ":" in pair)

    def check(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:
        expected = known.get(given.username, "")
        right = secrets.compare_digest(given.password.encode(), expected.encode())
        if not (right and given.username in known):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check
