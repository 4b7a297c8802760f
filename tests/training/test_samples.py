"""Sample prompts with kohya's flags."""

from __future__ import annotations

import pytest
from PIL import Image

from lib_lora_train.config import CompareConfig, SamplePrompt, TrainConfig
from lib_lora_train.evaluation.cells import generate_cells_by_tag, request_of
from lib_lora_train.model.sampling import SamplingOptions
from lib_lora_train.training.events import Sampled
from lib_lora_train.training.run_folder import AdapterPoint
from lib_lora_train.training.samples import SampleGroup, sample_groups, txt2img_request
from lib_lora_train.training.session import train
from tests.training.runs import of_kind, photos

FULL = "a star --n bad, worse --w 512 --h 768 --d 7 --l 5.5 --s 12"


def problems(*prompts: str) -> list[str]:
    config = TrainConfig.from_flat({"name": "a", "sample_prompts": list(prompts)})
    return [str(problem) for problem in config.problems()]


class TestFlags:
    def test_all_are_read(self):
        assert SamplePrompt.parse(FULL) == SamplePrompt("a star", "bad, worse", 512, 768, 7, 5.5, 12)
        assert problems(FULL) == []

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("a star", SamplePrompt("a star")),
            ("a star --d 3", SamplePrompt("a star", seed=3)),
            ("a star --D=3", SamplePrompt("a star", seed=3)),
            ("a star\t--w  520", SamplePrompt("a star", width=520)),
            ("a star --w 515", SamplePrompt("a star", width=512)),
            ("a star --n", SamplePrompt("a star", negative="")),
            ("a star --n a dash - here --d 1", SamplePrompt("a star", negative="a dash - here", seed=1)),
            ("--d 1", SamplePrompt("", seed=1)),
        ],
    )
    def test_come_in_any_order_and_number(self, line, expected):
        assert SamplePrompt.parse(line) == expected
        assert problems(line) == []

    @pytest.mark.parametrize("line", ["a -- b", "semi--transparent", "a---b", "1--2", "a -n b", "--", "a star --"])
    def test_dashes_in_words_are_no_flags(self, line):
        assert SamplePrompt.parse(line) == SamplePrompt(line)
        assert problems(line) == []

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("a star --ar 16:9", "--ar is not a flag"),
            ("a star --w big", "--w needs a number of pixels"),
            ("a star --w", "--w needs"),
            ("a star --w 99999", "64 to 2048"),
            ("a star --w 8", "64 to 2048"),
            ("a star --d -1", "--d needs a seed"),
            ("a star --l nan", "--l needs a CFG scale"),
            ("a star --s 0", "--s needs a number of steps"),
            ("a star --s 10.5", "--s needs a number of steps"),
            ("prompts.txt", "name of a file"),
            ("C:\\train\\prompts.json", "name of a file"),
        ],
    )
    def test_with_a_fault_are_a_problem_of_the_setting(self, line, words):
        (problem,) = problems("a cat", line)
        assert problem.startswith("sample_prompts: ")
        assert words in problem


def test_flags_go_before_the_settings_and_equal_images_are_generated_together():
    config = TrainConfig.from_flat({"resolution": 64, "sample_negative_prompt": "ugly", "sample_steps": 3})
    prompts = [SamplePrompt.parse(line) for line in ("a", "b --d 9", "c --s 5", "d --n", "e")]
    plain, more = SamplingOptions(64, 64, steps=3), SamplingOptions(64, 64, steps=5)
    assert sample_groups(config, prompts, [1] * 5) == [
        SampleGroup(["a", "b"], [1, 9], "ugly", plain),
        SampleGroup(["c"], [1], "ugly", more),
        SampleGroup(["d"], [1], "", plain),
        SampleGroup(["e"], [1], "ugly", plain),
    ]


def test_a_webui_gets_the_same_settings():
    request = txt2img_request(TrainConfig.from_flat({"resolution": 64}), SamplePrompt.parse(FULL), 1)
    assert (request.prompt, request.negative, request.seed) == ("a star", "bad, worse", 7)
    assert (request.width, request.height, request.steps, request.guidance) == (512, 768, 12, 5.5)


def test_sample_images_have_the_sizes_of_their_flags(tiny, host):
    prompts = ["a cat", "a star --w 64 --h 96 --n bad --d 3"]
    config, events = tiny(sample_every_n_epochs=1, sample_steps=1, sample_prompts=prompts), []
    train(config, host, events.append)
    (sampled,) = of_kind(events, Sampled)
    assert list(sampled.prompts) == ["a cat", "a star"]
    assert [Image.open(path).size for path in sampled.paths] == [(64, 64), (64, 96)]


def test_a_comparison_puts_the_tag_before_the_flags(tmp_path):
    config = TrainConfig.from_flat({"name": "cat", "sample_prompts": [FULL]})
    requests = []

    def txt2img(request):
        requests.append(request)
        return Image.new("RGB", (8, 8))

    request = request_of(config, CompareConfig(strengths=[0.5], seed=4))
    assert [prompt.text for prompt in request.prompts] == ["a star"]
    list(generate_cells_by_tag(txt2img, config, [AdapterPoint(tmp_path / "cat.safetensors", 1)], request))
    assert [(r.prompt, r.negative, r.seed) for r in requests] == [("a star <lora:cat:0.5>", "bad, worse", 7)]


def test_prompts_of_a_comparison_may_have_flags_and_captions_are_taken_word_for_word(tmp_path):
    folder = photos(tmp_path / "images", 1)
    (folder / "0.txt").write_text("a --x")
    config = TrainConfig.from_flat({"name": "cat", "dataset_folder": str(folder), "resolution": 64})
    assert request_of(config, CompareConfig(prompts=["a --d 5"])).prompts == [SamplePrompt("a", seed=5)]
    assert request_of(config, CompareConfig()).prompts == [SamplePrompt("a --x")]
