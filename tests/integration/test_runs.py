"""A run inside a WebUI: the WebUI is unchanged by the run, and the run by the use of the WebUI."""

from __future__ import annotations

import shutil

import pytest

from lib_lora_train.embedded import DEMO_IMAGES

PROMPT = "a red circle on a white background"


def test_every_parameter_is_the_webuis_own_storage(webui, settings):
    with webui.in_mid_run(**settings("shared")):
        sharing = webui.call("GET", "/lora-train-checks/sharing").body
    assert sharing["parameters"] > 500
    assert sharing["shared"] == sharing["parameters"]


def test_a_finished_run_leaves_weights_and_images_unchanged(webui, trained):
    before, image = webui.weights(), webui.generate(PROMPT)
    trained("finished")
    assert webui.weights() == before
    assert webui.generate(PROMPT) == image


def test_the_adapter_is_found_by_its_tag_without_a_refresh_and_is_removed_again(webui, trained):
    image = webui.generate(PROMPT)
    trained("found")
    assert webui.generate(f"{PROMPT} <lora:found:1>") != image
    assert webui.generate(PROMPT) == image


def test_images_generated_meanwhile_are_unchanged_and_do_not_change_the_adapter(webui, trained, settings):
    alone = trained("apart")
    trained("beside")
    image, tagged = webui.generate(PROMPT), webui.generate(f"{PROMPT} <lora:beside:1>")
    webui.act("apart", "discard")
    with webui.in_mid_run(**settings("apart")):
        assert webui.generate(PROMPT) == image
        assert webui.generate(f"{PROMPT} <lora:beside:1>") == tagged
    for _ in range(2):
        assert webui.generate(PROMPT) == image
        assert webui.generate(f"{PROMPT} <lora:beside:1>") == tagged
    assert webui.wait("apart", "finished", "failed")["state"] == "finished"
    assert webui.adapter("apart") == alone
    assert webui.generate(PROMPT) == image


def test_an_image_is_generated_during_a_run(webui, settings):
    webui.start(**settings("long", max_steps=400, epochs=100))
    webui.wait_for_step("long", 1)
    webui.generate(PROMPT)
    assert webui.job("long")["state"] == "training"
    webui.act("long", "discard")


def test_a_stopped_run_leaves_the_webui_unchanged_and_resumes_to_the_same_bytes(webui, trained, settings):
    whole = trained("halted")
    before = webui.weights()
    webui.act("halted", "discard")
    with webui.in_mid_run(**settings("halted")):
        webui.act("halted", "stop")
    assert webui.wait("halted", "stopped", "finished")["state"] == "stopped"
    assert webui.weights() == before
    webui.act("halted", "resume")
    webui.wait("halted", "finished")
    assert webui.adapter("halted") == whole


def test_a_paused_run_waits_and_continues_to_the_same_bytes(webui, trained, settings):
    whole = trained("paused")
    webui.act("paused", "discard")
    with webui.in_mid_run(**settings("paused")):
        webui.act("paused", "pause")
    step = webui.wait("paused", "paused")["step"]
    webui.generate(PROMPT)
    assert webui.job("paused")["step"] == step
    webui.act("paused", "continue")
    webui.wait("paused", "finished")
    assert webui.adapter("paused") == whole


def test_the_webuis_interrupt_does_not_end_a_run(webui, settings):
    with webui.in_mid_run(**settings("uninterrupted")):
        webui.call("POST", "/sdapi/v1/interrupt")
    assert webui.wait("uninterrupted", "finished", "stopped", "failed")["state"] == "finished"


def test_while_another_checkpoint_is_loaded_the_run_waits_with_a_message(webui, trained, settings):
    whole = trained("patient")
    image = webui.generate(PROMPT)
    webui.act("patient", "discard")
    with webui.in_mid_run(**settings("patient")):
        webui.load_checkpoint("other.safetensors")
    job = webui.wait("patient", "paused")
    assert "shapes" in job["message"]
    assert "other" in job["message"]
    webui.load_checkpoint("shapes.safetensors")
    webui.wait("patient", "finished")
    assert webui.adapter("patient") == whole
    assert webui.generate(PROMPT) == image


def test_while_another_vae_is_loaded_the_run_waits_with_a_message(webui, trained, settings):
    whole = trained("same vae")
    image = webui.generate(PROMPT)
    webui.act("same vae", "discard")
    with webui.in_mid_run(**settings("same vae")):
        webui.load_vae("other-vae.safetensors")
    assert "VAE" in webui.wait("same vae", "paused")["message"]
    webui.load_vae("None")
    webui.wait("same vae", "finished")
    assert webui.adapter("same vae") == whole
    assert webui.generate(PROMPT) == image


@pytest.mark.parametrize("stage", ["lease", "view", "cache", "inject", "step", "save", "validation", "release"])
def test_a_run_that_fails_at_any_stage_leaves_the_webui_unchanged(webui, settings, stage):
    before, image = webui.weights(), webui.generate(PROMPT)
    name = f"fails at {stage}"
    webui.fail_at(stage)
    try:
        webui.start(**settings(name, validate_every_n_epochs=1))
        job = webui.wait(name, "failed", "finished")
    finally:
        webui.fail_at("")
    assert job["state"] == "failed"
    assert f"{stage} was made to fail" in job["message"]
    assert webui.weights() == before
    assert webui.generate(PROMPT) == image


def test_sample_images_that_fail_do_not_fail_the_run(webui, settings):
    webui.fail_at("samples")
    try:
        webui.start(**settings("no samples", sample_every_n_epochs=1, sample_prompts=[PROMPT]))
        job = webui.wait("no samples", "failed", "finished")
    finally:
        webui.fail_at("")
    assert job["state"] == "finished"
    assert any(event["event"] == "warned" for event in job["events"])


def test_a_name_that_is_in_use_is_refused(webui, trained, settings):
    trained("used")
    response = webui.start(**settings("used"))
    assert response.status == 422
    assert response.body["problems"][0]["field"] == "name"


def test_a_second_run_waits_for_the_first(webui, settings):
    with webui.in_mid_run(**settings("first")):
        webui.start(**settings("second"))
        assert webui.job("second")["state"] == "waiting"
    assert webui.wait("second", "finished", "failed")["state"] == "finished"
    assert webui.job("first")["state"] == "finished"


def test_images_wait_for_a_run_that_does_not_allow_generation(webui, settings):
    webui.start(**settings("exclusive", allow_image_generation=False))
    webui.wait_for_step("exclusive", 1)
    webui.generate(PROMPT)
    assert webui.job("exclusive")["state"] == "finished"


def test_a_plan_is_made_while_a_run_trains(webui, settings):
    with webui.in_mid_run(**settings("busy")):
        plan = webui.call("POST", "/lora-train/v1/plan", settings("planned"))
    assert plan.status == 200
    assert plan.body["steps"] == 6


@pytest.mark.parametrize("name", ["кошка", "猫の絵", "Été 1.5", "two words"])
def test_a_name_of_any_script_is_trained_and_found_by_its_tag(webui, trained, name):
    image = webui.generate(PROMPT)
    trained(name)
    assert webui.generate(f"{PROMPT} <lora:{name}:1>") != image
    assert webui.generate(PROMPT) == image


def test_dataset_images_may_be_deleted_during_a_run_that_has_them_cached(webui, settings, tmp_path):
    images = shutil.copytree(DEMO_IMAGES, tmp_path / "images")
    with webui.in_mid_run(**settings("cached", dataset_folder=str(images))):
        shutil.rmtree(images)
    assert webui.wait("cached", "finished", "failed")["state"] == "finished"


def test_missing_dataset_images_are_named_and_the_run_resumes_when_they_are_back(webui, trained, settings, tmp_path):
    images = shutil.copytree(DEMO_IMAGES, tmp_path / "images")
    cropped = {
        "dataset_folder": str(images),
        "random_crop": True,
        "max_steps": 40,
        "epochs": 10,
    }  # so that the files are read in every epoch
    whole = trained("interrupted", **cropped)
    webui.act("interrupted", "discard")
    before = webui.weights()
    with webui.in_mid_run(**settings("interrupted", **cropped)):
        images.rename(tmp_path / "elsewhere")
    job = webui.wait("interrupted", "finished", "failed")
    assert job["state"] == "failed"
    assert str(images) in job["message"]
    assert webui.weights() == before
    (tmp_path / "elsewhere").rename(images)
    assert webui.act("interrupted", "resume").status == 200
    assert webui.wait("interrupted", "finished", "failed")["state"] == "finished"
    assert webui.adapter("interrupted") == whole


def test_a_run_whose_webui_was_killed_resumes_to_the_same_bytes(webui, trained, settings):
    whole = trained("cut", save_every_n_steps=2)
    webui.act("cut", "discard")
    with webui.in_mid_run(**settings("cut", save_every_n_steps=2)):
        webui.start(**settings("waits"))
        webui.kill_and_start_again()
        assert webui.job("cut") == {}
    for name in ("cut", "waits"):
        assert webui.act(name, "resume").status == 200
    assert webui.wait("waits", "finished", "failed")["state"] == "finished"
    assert webui.wait("cut", "finished", "failed")["state"] == "finished"
    assert webui.adapter("cut") == whole
