"""A run and the WebUI around it: each stays as it would be without the other."""

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


def test_a_finished_run_leaves_weights_and_images_as_they_were(webui, trained):
    before, image = webui.weights(), webui.draw(PROMPT)
    trained("finished")
    assert webui.weights() == before
    assert webui.draw(PROMPT) == image


def test_the_adapter_is_found_by_its_tag_without_a_refresh_and_comes_off_again(webui, trained):
    image = webui.draw(PROMPT)
    trained("found")
    assert webui.draw(f"{PROMPT} <lora:found:1>") != image
    assert webui.draw(PROMPT) == image


def test_images_drawn_meanwhile_change_neither_the_adapter_nor_themselves(webui, trained, settings):
    alone = trained("apart")
    trained("beside")
    image, tagged = webui.draw(PROMPT), webui.draw(f"{PROMPT} <lora:beside:1>")
    webui.act("apart", "discard")
    with webui.in_mid_run(**settings("apart")):
        assert webui.draw(PROMPT) == image
        assert webui.draw(f"{PROMPT} <lora:beside:1>") == tagged
    for _ in range(2):
        assert webui.draw(PROMPT) == image
        assert webui.draw(f"{PROMPT} <lora:beside:1>") == tagged
    assert webui.wait("apart", "finished", "failed")["state"] == "finished"
    assert webui.adapter("apart") == alone
    assert webui.draw(PROMPT) == image


def test_an_image_is_drawn_before_the_run_is_over(webui, settings):
    webui.start(**settings("long", max_steps=400, epochs=100))
    webui.wait_for_step("long", 1)
    webui.draw(PROMPT)
    assert webui.job("long")["state"] == "training"
    webui.act("long", "discard")


def test_a_stopped_run_leaves_the_webui_as_it_was_and_can_be_resumed_to_the_same_bytes(webui, trained, settings):
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


def test_pausing_saves_and_waits_until_it_may_go_on(webui, trained, settings):
    whole = trained("paused")
    webui.act("paused", "discard")
    with webui.in_mid_run(**settings("paused")):
        webui.act("paused", "pause")
    step = webui.wait("paused", "paused")["step"]
    webui.draw(PROMPT)
    assert webui.job("paused")["step"] == step
    webui.act("paused", "continue")
    webui.wait("paused", "finished")
    assert webui.adapter("paused") == whole


def test_the_webuis_interrupt_does_not_end_a_run(webui, settings):
    with webui.in_mid_run(**settings("uninterrupted")):
        webui.call("POST", "/sdapi/v1/interrupt")
    assert webui.wait("uninterrupted", "finished", "stopped", "failed")["state"] == "finished"


def test_while_another_checkpoint_is_loaded_the_run_waits_and_says_so(webui, trained, settings):
    whole = trained("patient")
    image = webui.draw(PROMPT)
    webui.act("patient", "discard")
    with webui.in_mid_run(**settings("patient")):
        webui.load_checkpoint("other.safetensors")
    job = webui.wait("patient", "paused")
    assert "shapes" in job["message"]
    assert "other" in job["message"]
    webui.load_checkpoint("shapes.safetensors")
    webui.wait("patient", "finished")
    assert webui.adapter("patient") == whole
    assert webui.draw(PROMPT) == image


def test_while_another_vae_is_loaded_the_run_waits_and_says_so(webui, trained, settings):
    whole = trained("same eyes")
    image = webui.draw(PROMPT)
    webui.act("same eyes", "discard")
    with webui.in_mid_run(**settings("same eyes")):
        webui.load_vae("other-vae.safetensors")
    assert "VAE" in webui.wait("same eyes", "paused")["message"]
    webui.load_vae("None")
    webui.wait("same eyes", "finished")
    assert webui.adapter("same eyes") == whole
    assert webui.draw(PROMPT) == image


@pytest.mark.parametrize("stage", ["lease", "view", "cache", "inject", "step", "save", "validation", "release"])
def test_a_run_that_fails_anywhere_leaves_the_webui_as_it_was(webui, settings, stage):
    before, image = webui.weights(), webui.draw(PROMPT)
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
    assert webui.draw(PROMPT) == image


def test_previews_that_fail_cost_the_pictures_only(webui, settings):
    webui.fail_at("preview")
    try:
        webui.start(**settings("blind", sample_every_n_epochs=1, sample_prompts=[PROMPT]))
        job = webui.wait("blind", "failed", "finished")
    finally:
        webui.fail_at("")
    assert job["state"] == "finished"
    assert any(event["event"] == "warned" for event in job["events"])


def test_a_name_that_is_taken_is_refused_in_words(webui, trained, settings):
    trained("taken")
    answer = webui.start(**settings("taken"))
    assert answer.status == 422
    assert answer.body["problems"][0]["field"] == "name"


def test_two_runs_wait_in_line(webui, settings):
    with webui.in_mid_run(**settings("first")):
        webui.start(**settings("second"))
        assert webui.job("second")["state"] == "waiting"
    assert webui.wait("second", "finished", "failed")["state"] == "finished"
    assert webui.job("first")["state"] == "finished"


def test_without_sharing_images_wait_until_the_run_is_over(webui, settings):
    webui.start(**settings("selfish", allow_image_generation=False))
    webui.wait_for_step("selfish", 1)
    webui.draw(PROMPT)
    assert webui.job("selfish")["state"] == "finished"


def test_a_plan_is_made_while_a_run_trains(webui, settings):
    with webui.in_mid_run(**settings("busy")):
        plan = webui.call("POST", "/lora-train/v1/plan", settings("planned"))
    assert plan.status == 200
    assert plan.body["steps"] == 6


@pytest.mark.parametrize("name", ["кошка", "猫の絵", "Été 1.5", "two words"])
def test_a_name_of_any_script_is_trained_and_found_by_its_tag(webui, trained, name):
    image = webui.draw(PROMPT)
    trained(name)
    assert webui.draw(f"{PROMPT} <lora:{name}:1>") != image
    assert webui.draw(PROMPT) == image


def test_images_that_are_deleted_in_mid_run_are_not_missed_where_they_are_kept_encoded(webui, settings, tmp_path):
    images = shutil.copytree(DEMO_IMAGES, tmp_path / "images")
    with webui.in_mid_run(**settings("remembers", dataset_folder=str(images))):
        shutil.rmtree(images)
    assert webui.wait("remembers", "finished", "failed")["state"] == "finished"


def test_images_that_are_deleted_in_mid_run_are_named_and_the_run_goes_on_when_they_are_back(
    webui, trained, settings, tmp_path
):
    images = shutil.copytree(DEMO_IMAGES, tmp_path / "images")
    cropped = {
        "dataset_folder": str(images),
        "random_crop": True,
        "max_steps": 40,
        "epochs": 10,
    }  # reads its files in every epoch
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


def test_a_run_whose_webui_is_killed_goes_on_after_the_next_start_to_the_same_bytes(webui, trained, settings):
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
