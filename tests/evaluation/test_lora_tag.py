"""Exactly one tag is added or replaced; every other byte of the prompt stays the same."""

import pytest

from lib_lora_train.evaluation.lora_tag import strength_text, tags, with_one_tag


def cats(name: str) -> bool:
    return name.strip().lower().startswith("cat")


def with_tag(prompt: str, strength: float | None = None, name: str = "cat-000002") -> str:
    return with_one_tag(prompt, cats, name, strength)


class TestAddingATag:
    @pytest.mark.parametrize(
        ("prompt", "result"),
        [
            ("a photo", "a photo <lora:cat-000002:1>"),
            ("", "<lora:cat-000002:1>"),
            ("a photo, ", "a photo, <lora:cat-000002:1>"),
            ("one\n", "one\n<lora:cat-000002:1>"),
            ("<lora:dog:1>", "<lora:dog:1> <lora:cat-000002:1>"),
        ],
    )
    def test_adds_it_at_the_end(self, prompt, result):
        assert with_tag(prompt) == result

    def test_sets_its_strength(self):
        assert with_tag("a photo", 0.5) == "a photo <lora:cat-000002:0.5>"

    def test_does_not_add_it_to_a_comment(self):
        assert with_tag("a photo # of what?") == "a photo # of what?\n<lora:cat-000002:1>"


class TestReplacingATag:
    @pytest.mark.parametrize("name", ["cat", "cat-000001", "CAT", " cat ", "cat (v1.5) [x]", "cat.v2", "cat кошка 猫"])
    def test_replaces_the_name_in_place(self, name):
        assert (
            with_tag(f"a  (photo:1.1),\n<lora:{name}:0.8>\tof BREAK it ")
            == "a  (photo:1.1),\n<lora:cat-000002:0.8>\tof BREAK it "
        )

    @pytest.mark.parametrize(
        "arguments", ["", ":0.80", ":.5", ":0.8:0.7", ":0.8:0.7:16", ":te=0.8:unet=0.7", ":1:dyn=8", ":odd"]
    )
    def test_keeps_its_arguments(self, arguments):
        assert with_tag(f"<lora:cat{arguments}>") == f"<lora:cat-000002{arguments}>"

    def test_takes_the_name_literally(self):
        assert with_tag("<lora:cat:1>", name=r"cat \1 (a+b) [c]") == r"<lora:cat \1 (a+b) [c]:1>"

    def test_removes_all_but_the_first(self):
        prompt = "<lora:cat:0.1>a<lora:dog:1>b <lora:cat-000003:2> c<lora:cat>"
        assert with_tag(prompt) == "<lora:cat-000002:0.1>a<lora:dog:1>b  c"

    @pytest.mark.parametrize("network", ["LORA", "Lora", "lyco"])
    def test_accepts_other_spellings_of_lora(self, network):
        assert with_tag(f"<{network}:cat:0.4>") == "<lora:cat-000002:0.4>"

    @pytest.mark.parametrize(
        "other", ["<hypernet:cat:1>", "<lora:dog:1>", "<lora:mycat:1>", "cat:0.8", "<cat>", "<lora>"]
    )
    def test_does_not_change_anything_else(self, other):
        assert with_tag(f"{other} <lora:cat:1>") == f"{other} <lora:cat-000002:1>"

    def test_does_not_change_comments(self):
        assert with_tag("a # <lora:cat:0.3>\nb <lora:cat:1>") == "a # <lora:cat:0.3>\nb <lora:cat-000002:1>"

    def test_is_idempotent(self):
        assert with_tag(with_tag("<lora:cat:0.3> <lora:cat:1>")) == with_tag("<lora:cat:0.3> <lora:cat:1>")


class TestChangingTheStrength:
    @pytest.mark.parametrize(
        ("arguments", "result"),
        [
            ("", ":0.5"),
            (":1", ":0.5"),
            (":0.8:0.7", ":0.5"),
            (":te=0.8:unet=0.7", ":0.5"),
            (":0.8:unet=0.7:dyn=8", ":0.5:dyn=8"),
            (":0.8:0.7:8", ":0.5:0.5:8"),
            (":lbw=MIDD", ":0.5:lbw=MIDD"),
        ],
    )
    def test_sets_one_strength_for_text_encoder_and_unet_and_keeps_other_arguments(self, arguments, result):
        assert with_tag(f"<lora:cat{arguments}>", 0.5, name="cat") == f"<lora:cat{result}>"


@pytest.mark.parametrize(
    ("strength", "text"),
    [
        (0.8, "0.8"),
        (1, "1"),
        (1.0, "1"),
        (0, "0"),
        (-0.0, "0"),
        (-0.5, "-0.5"),
        (10, "10"),
        (100.0, "100"),
        (1e-5, "0.00001"),
        (-1e-12, "0"),
        (0.1 + 0.2, "0.3"),
        (1 / 3, "0.33333333"),
        (1.250, "1.25"),
        (1e6, "1000000"),
    ],
)
def test_a_strength_is_written_in_the_shortest_form(strength, text):
    assert strength_text(strength) == text


def test_a_tag_has_its_position():
    prompt = "a <lora:my cat:0.5:te=1>b"
    (tag,) = tags(prompt)
    assert prompt[tag.start : tag.end] == "<lora:my cat:0.5:te=1>"
    assert (tag.name, tag.arguments) == ("my cat", ("0.5", "te=1"))
