"""The HTTP API."""

from __future__ import annotations

import base64

import pytest

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient  # noqa: E402
from PIL import Image  # noqa: E402

from lib_lora_train.api import PREFIX, add_routes  # noqa: E402
from lib_lora_train.queue import wait_until_over  # noqa: E402
from lib_lora_train.service import TrainingService  # noqa: E402
from tests.environments import webui_environment  # noqa: E402
from tests.training.runs import photos  # noqa: E402


@pytest.fixture
def service(checkpoint, tmp_path):
    environment = webui_environment(checkpoint, tmp_path)
    photos(environment.datasets_dir / "cats")
    service = TrainingService(environment)
    yield service
    service.queue.close()


@pytest.fixture
def client(service):
    app = fastapi.FastAPI()
    add_routes(app, service)
    return TestClient(app)


SETTINGS = {
    "name": "cat",
    "dataset_folder": "cats",
    "resolution": 64,
    "rank": 2,
    "repeats": 1,
    "epochs": 1,
    "sample_every_n_epochs": 0,
}


def test_plan_shows_the_run_and_writes_nothing(client, service):
    plan = client.post(f"{PREFIX}/plan", json=SETTINGS).json()
    assert plan["steps"] == plan["shown_per_epoch"] == 4
    assert plan["seconds_per_step"] is None
    assert plan["memory"]["total"] > 0
    assert not service.environment.runs_dir.exists()


def test_a_measured_time_is_remembered(client):
    measured = client.post(f"{PREFIX}/plan", json={**SETTINGS, "timed": True}).json()["seconds_per_step"]
    assert measured > 0
    assert client.post(f"{PREFIX}/plan", json=SETTINGS).json()["seconds_per_step"] == measured


def test_problems_name_their_fields(client):
    response = client.post(f"{PREFIX}/runs", json={**SETTINGS, "rank": 0, "resolution": 65})
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["problems"]] == ["rank", "resolution"]


def test_an_unknown_setting_gets_a_suggestion(client):
    problem = client.post(f"{PREFIX}/plan", json={**SETTINGS, "learning_rat": 1}).json()["problems"][0]
    assert problem["field"] == "learning_rat"
    assert "learning_rate" in problem["message"]


def test_a_folder_outside_the_roots_is_refused(client, tmp_path):
    photos(tmp_path / "private")
    for outside in (str(tmp_path / "private"), "../../private", "/etc"):
        problems = client.post(f"{PREFIX}/plan", json={**SETTINGS, "dataset_folder": outside}).json()["problems"]
        assert problems[0]["field"] == "dataset_folder"
        assert str(tmp_path) not in problems[0]["message"]


def test_a_run_can_be_started_followed_and_listed(client, service):
    assert client.post(f"{PREFIX}/runs", json=SETTINGS).json()["name"] == "cat"
    wait_until_over(service.queue.get("cat"))
    run = client.get(f"{PREFIX}/runs/cat").json()
    assert run["complete"]
    assert run["job"]["state"] == "finished"
    assert run["epochs"] == [{"epoch": 1, "file": "cat.safetensors"}]
    events = run["job"]["events"]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    assert client.get(f"{PREFIX}/runs/cat?since={len(events) - 1}").json()["job"]["events"] == events[-1:]
    assert [run["name"] for run in client.get(f"{PREFIX}/runs").json()] == ["cat"]


def test_a_run_can_be_discarded(client, service):
    client.post(f"{PREFIX}/runs", json=SETTINGS)
    wait_until_over(service.queue.get("cat"))
    assert client.post(f"{PREFIX}/runs/cat/discard").json()["state"] == "discarded"
    assert client.get(f"{PREFIX}/runs").json() == []


def test_compare_returns_the_grid_and_the_recommended_epoch(client, service):
    client.post(f"{PREFIX}/runs", json={**SETTINGS, "sample_steps": 1})
    wait_until_over(service.queue.get("cat"))
    response = client.post(
        f"{PREFIX}/runs/cat/compare", json={"strengths": [0, 1], "prompts": ["a cat"], "seed": 3}
    ).json()
    assert (response["name"], response["file"], response["recommended"]["epoch"]) == ("cat", "cat.safetensors", 1)
    assert base64.b64decode(response["grid"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options", [{"strengths": "1"}, {"strengths": []}, {"prompts": [1]}, {"seed": -1}, {"output": "/tmp/x.png"}]
)
def test_compare_refuses_an_invalid_option_by_name(client, options):
    response = client.post(f"{PREFIX}/runs/cat/compare", json=options)
    assert response.status_code == 422
    assert next(iter(options)) in response.json()["problems"][0]["message"]


@pytest.mark.parametrize("name", ["nobody", "..", "%2e%2e", "cat%00"])
def test_a_missing_run_is_not_found(client, name):
    assert client.get(f"{PREFIX}/runs/{name}").status_code == 404


def test_an_unknown_action_gets_a_list_of_actions(client):
    response = client.post(f"{PREFIX}/runs/cat/explode")
    assert response.status_code == 422
    assert "pause, continue" in response.json()["problems"][0]["message"]


def test_requests_without_a_login_are_refused(service):
    app = fastapi.FastAPI()
    add_routes(app, service, "ann:secret,bob:word")
    client = TestClient(app)
    for path in ("runs", "runs/cat"):
        assert client.get(f"{PREFIX}/{path}").status_code == 401
    assert client.post(f"{PREFIX}/plan", json=SETTINGS).status_code == 401
    assert client.get(f"{PREFIX}/runs", auth=("ann", "word")).status_code == 401
    assert client.get(f"{PREFIX}/runs", auth=("eve", "")).status_code == 401
    assert client.get(f"{PREFIX}/runs", auth=("bob", "word")).status_code == 200


def test_the_webui_generates_class_images_and_the_api_reports_progress(checkpoint, service, client):
    jobs = []

    def txt2img(request):
        jobs.append(client.get(f"{PREFIX}/runs/cat").json()["job"])
        return Image.new("RGB", (request.width, request.height))

    service.queue._txt2img = txt2img
    dreambooth = {"training_method": "dreambooth", "trigger_word": "sks", "class_word": "cat", "num_class_images": 2}
    client.post(f"{PREFIX}/runs", json={**SETTINGS, **dreambooth})
    wait_until_over(service.queue.get("cat"))
    assert [(job["state"], job["preparing"]["event"], job["preparing"]["done"]) for job in jobs] == [
        ("preparing", "generatingclassimages", 0),
        ("preparing", "generatingclassimages", 1),
    ]
    assert jobs[0]["preparing"]["total"] == 2
    assert jobs[0]["preparing"]["folder"].startswith(str(service.environment.runs_dir / "cache" / "class-images"))
    after = client.get(f"{PREFIX}/runs/cat").json()["job"]
    assert (after["state"], after["preparing"]) == ("finished", None)


def test_a_password_may_contain_a_colon(service):
    app = fastapi.FastAPI()
    add_routes(app, service, "ann:se:cret")
    client = TestClient(app)
    assert client.get(f"{PREFIX}/runs", auth=("ann", "se:cret")).status_code == 200
    assert client.get(f"{PREFIX}/runs", auth=("ann", "cret")).status_code == 401


def test_events_since_a_negative_number_are_all_of_them(client, service):
    client.post(f"{PREFIX}/runs", json=SETTINGS)
    wait_until_over(service.queue.get("cat"))
    every = client.get(f"{PREFIX}/runs/cat?since=0").json()["job"]["events"]
    assert len(every) > 1
    assert client.get(f"{PREFIX}/runs/cat?since=-1").json()["job"]["events"] == every


@pytest.mark.parametrize("seed", [2**32, 1.5, "1"])
def test_a_comparisons_seed_is_a_whole_number_of_32_bits(client, seed):
    answer = client.post(f"{PREFIX}/runs/cat/compare", json={"seed": seed})
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["message"].startswith("seed ")
