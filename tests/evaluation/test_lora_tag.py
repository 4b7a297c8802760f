"""Exactly one tag is put, replaced or re-weighed; every other byte of the prompt stays."""

import pytest

from lib_lora_train.evaluation.lora_tag import strength_text, tags, with_one_tag


def cats(name: str) -> bool:
    return name.strip().lower().startswith("cat")


def put(prompt: str, strength: float | None = None, name: str = "cat-000002") -> str:
    return with_one_tag(prompt, cats, name, strength)


class TestPutting:
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
    def test_adds_a_tag_at_the_end_where_none_is(self, prompt, result):
        assert put(prompt) == result

    def test_gives_a_new_tag_the_strength(self):
        assert put("a photo", 0.5) == "a photo <lora:cat-000002:0.5>"

    def test_does_not_put_it_into_a_comment(self):
        assert put("a photo # of what?") == "a photo # of what?\n<lora:cat-000002:1>"


class TestReplacing:
    @pytest.mark.parametrize("name", ["cat", "cat-000001", "CAT", " cat ", "cat (v1.5) [x]", "cat.v2", "cat кошка 猫"])
    def test_replaces_the_name_where_it_stands(self, name):
        assert (
            put(f"a  (photo:1.1),\n<lora:{name}:0.8>\tof BREAK it ")
            == "a  (photo:1.1),\n<lora:cat-000002:0.8>\tof BREAK it "
        )

    @pytest.mark.parametrize(
        "arguments", ["", ":0.80", ":.5", ":0.8:0.7", ":0.8:0.7:16", ":te=0.8:unet=0.7", ":1:dyn=8", ":odd"]
    )
    def test_keeps_the_tags_arguments_as_they_are(self, arguments):
        assert put(f"<lora:cat{arguments}>") == f"<lora:cat-000002{arguments}>"

    def test_takes_the_name_literally(self):
        assert put("<lora:cat:1>", name=r"cat \1 (a+b) [c]") == r"<lora:cat \1 (a+b) [c]:1>"

    def test_leaves_one_of_several(self):
        prompt = "<lora:cat:0.1>a<lora:dog:1>b <lora:cat-000003:2> c<lora:cat>"
        assert put(prompt) == "<lora:cat-000002:0.1>a<lora:dog:1>b  c"

    @pytest.mark.parametrize("network", ["LORA", "Lora", "lyco"])
    def test_knows_other_spellings_of_lora(self, network):
        assert put(f"<{network}:cat:0.4>") == "<lora:cat-000002:0.4>"

    @pytest.mark.parametrize(
        "other", ["<hypernet:cat:1>", "<lora:dog:1>", "<lora:mycat:1>", "cat:0.8", "<cat>", "<lora>"]
    )
    def test_leaves_everything_else(self, other):
        assert put(f"{other} <lora:cat:1>") == f"{other} <lora:cat-000002:1>"

    def test_leaves_comments(self):
        assert put("a # <lora:cat:0.3>\nb <lora:cat:1>") == "a # <lora:cat:0.3>\nb <lora:cat-000002:1>"

    def test_is_done_once_and_for_all(self):
        assert put(put("<lora:cat:0.3> <lora:cat:1>")) == put("<lora:cat:0.3> <lora:cat:1>")


class TestReweighing:
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
    def test_gives_text_encoder_and_unet_one_strength_and_keeps_the_rest(self, arguments, result):
        assert put(f"<lora:cat{arguments}>", 0.5, name="cat") == f"<lora:cat{result}>"


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
def test_a_strength_is_written_as_a_person_would(strength, text):
    assert strength_text(strength) == text


def test_a_tag_knows_where_it_stands():
    prompt = "a <lora:my cat:0.5:te=1>b"
    (tag,) = tags(prompt)
    assert prompt[tag.start : tag.end] == "<lora:my cat:0.5:te=1>"
    assert (tag.name, tag.arguments) == ("my cat", ("0.5", "te=1"))
