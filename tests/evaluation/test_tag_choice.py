"""What no axis chooses is taken from the prompt."""

import pytest

from lib_lora_train.evaluation.runs import SavedRuns
from lib_lora_train.evaluation.tag_choice import Choice, replaced_runs, with_choice
from tests.evaluation.lora_folders import write_adapter, write_run


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "cat", 3)
    write_run(tmp_path / "dog", 2)
    write_run(tmp_path / "ink", 2)
    write_adapter(tmp_path / "cat" / "cat-step00000040.safetensors")
    write_adapter(tmp_path / "foreign.safetensors")
    return SavedRuns.find(tmp_path)


@pytest.fixture
def chosen(runs):
    """chosen(prompt, alternatives, run=..., epoch=..., strength=...): the prompt of the cell."""

    def choose(prompt: str, alternatives: str = "", **choice: object) -> str:
        replaced = replaced_runs(prompt, runs, frozenset(alternatives.split()))
        return with_choice(prompt, Choice(**choice), runs, replaced)

    return choose


class TestWithoutATag:
    def test_the_last_epoch_and_strength_1_are_used(self, chosen):
        assert chosen("a", run="cat") == "a <lora:cat:1>"
        assert chosen("a", run="cat", epoch=2) == "a <lora:cat-000002:1>"
        assert chosen("a", run="cat", strength=0.5) == "a <lora:cat:0.5>"
        assert chosen("a", run="cat", epoch=1, strength=0.5) == "a <lora:cat-000001:0.5>"

    def test_a_run_is_required(self, chosen, complaint):
        for choice in ({"epoch": 1}, {"strength": 1.0}, {"epoch": 1, "strength": 1.0}):
            assert "The prompt has no tag of a run" in complaint(chosen, "a <lora:foreign:1>", **choice)


class TestWithATag:
    def test_what_is_not_chosen_stays_the_same(self, chosen):
        assert chosen("<lora:cat-000001:0.7>", strength=0.5) == "<lora:cat-000001:0.5>"
        assert chosen("<lora:cat-000001:0.7>", epoch=2) == "<lora:cat-000002:0.7>"
        assert chosen("<lora:cat-000001:0.7>", "dog", run="dog") == "<lora:dog-000001:0.7>"
        assert chosen("<lora:cat:0.7>", "dog", run="dog") == "<lora:dog:0.7>"

    def test_a_file_saved_between_epochs_is_kept_or_replaced_by_the_last_epoch(self, chosen):
        assert chosen("<lora:cat-step00000040>", strength=0.5) == "<lora:cat-step00000040:0.5>"
        assert chosen("<lora:cat-step00000040>", "dog", run="dog") == "<lora:dog>"

    def test_its_case_is_corrected(self, chosen):
        assert chosen("<lora:CAT-000001:0.7>", strength=0.5) == "<lora:cat-000001:0.5>"
        assert chosen("<lora:cat-000001:0.7>", "CAT", run="CAT") == "<lora:cat-000001:0.7>"

    def test_the_last_epoch_may_be_chosen_by_its_number(self, chosen):
        assert chosen("<lora:cat-000001:0.7>", epoch=3) == "<lora:cat:0.7>"

    def test_an_epoch_that_the_run_does_not_have_is_refused(self, chosen, complaint):
        assert "The run dog has no epoch 3" in complaint(chosen, "<lora:dog:1>", epoch=3)
        assert "The run dog has no epoch 3" in complaint(chosen, "<lora:cat:1>", "dog", run="dog", epoch=3)


class TestOtherRuns:
    PROMPT = "<lora:ink:0.8> a <lora:cat:0.5>"

    def test_stay_if_they_are_not_alternatives(self, chosen):
        assert chosen(self.PROMPT, "cat dog", run="dog") == "<lora:ink:0.8> a <lora:dog:0.5>"
        assert chosen(self.PROMPT, "cat dog", run="cat") == self.PROMPT

    def test_are_replaced_if_the_prompt_has_no_alternative(self, chosen):
        assert chosen("<lora:ink:0.8> a <lora:foreign:1>", "cat dog", run="dog") == "<lora:dog:0.8> a <lora:foreign:1>"

    def test_after_the_first_stay_if_no_run_is_chosen(self, chosen):
        assert chosen(self.PROMPT, strength=0.1) == "<lora:ink:0.1> a <lora:cat:0.5>"

    def test_that_are_alternatives_become_one_tag(self, chosen):
        prompt = "<lora:dog:0.1> <lora:ink:0.8> <lora:cat:0.5>"
        assert chosen(prompt, "cat dog", run="cat") == "<lora:cat:0.1> <lora:ink:0.8> "
        assert chosen(prompt, "cat dog", run="dog") == "<lora:dog:0.1> <lora:ink:0.8> "
