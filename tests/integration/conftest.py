"""The WebUI that the suite runs against: a real one with `pytest tests/integration --webui PATH`, else the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_lora_train.embedded import DEMO_IMAGES
from tests.integration.webui import WebUI, start_real, start_stand_in


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    data = tmp_path_factory.mktemp("webui")
    installed = request.config.getoption("--webui")
    flags = request.config.getoption("--webui-flags").split()
    running = start_real(Path(installed).resolve(), data, flags) if installed else start_stand_in(data)
    yield running
    running.close()


@pytest.fixture
def settings() -> Callable[..., dict[str, Any]]:
    """settings(name, **others): a run of six steps, without sample images."""

    def make(name: str, **others: Any) -> dict[str, Any]:
        return {
            "name": name,
            "dataset_folder": str(DEMO_IMAGES),
            "resolution": 64,
            "repeats": 1,
            "batch_size": 2,
            "epochs": 1,
            "max_steps": 6,
            "rank": 4,
            "learning_rate": 1e-2,
            "sample_every_n_epochs": 0,
            "validate_every_n_epochs": 0,
            **others,
        }

    return make


@pytest.fixture
def trained(webui: WebUI, settings) -> Callable[..., bytes]:
    """trained(name, **others): trains a run to its end and returns the bytes of its adapter."""

    def run(name: str, **others: Any) -> bytes:
        response = webui.start(**settings(name, **others))
        assert response.status == 200, response
        job = webui.wait(name, "finished", "failed")
        assert job["state"] == "finished", job
        return webui.adapter(name)

    return run
