"""The tab as a page of its own."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import gradio as gr
import pytest

from lib_lora_train.ui import standalone


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """served(look, listen=...): serves the page from a working folder with a secret file, and calls look(url) meanwhile."""
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "secret.cfg").write_text("SECRET")
    monkeypatch.chdir(tmp_path / "working")
    launch = gr.Blocks.launch
    monkeypatch.setattr(
        gr.Blocks, "launch", lambda self, **named: launch(self, **{**named, "server_name": "127.0.0.1"})
    )

    def serve(look, *, listen: bool) -> None:
        port = free_port()
        monkeypatch.setattr(standalone, "_wait_for_interrupt", lambda: look(f"http://127.0.0.1:{port}"))
        standalone.serve(tmp_path / "output", port=port, listen=listen)

    return serve


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """(status, body)"""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("listen", [True, False])
def test_files_of_the_working_folder_are_not_served(served, tmp_path, listen):
    answers = {}

    def look(url: str) -> None:
        for path in ("secret.cfg", tmp_path / "working" / "secret.cfg"):
            answers[path] = get(f"{url}/file={path}")
        answers["page"] = get(url)

    served(look, listen=listen)
    assert answers.pop("page")[0] == 200
    assert {status for status, _ in answers.values()} == {403}
    assert not any(b"SECRET" in body for _, body in answers.values())
