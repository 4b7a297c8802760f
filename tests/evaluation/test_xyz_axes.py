"""The axes in the X/Y/Z plot: every cell has the tag that a user would type, and invalid grids do not start.

The WebUI is a stand-in here; tests/integration/check_axes.py compares the images of a real one.
"""

from __future__ import annotations

import itertools
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_lora_train.evaluation import xyz_axes
from lib_lora_train.evaluation.runs import SavedRuns
from lib_lora_train.evaluation.xyz_axes import EPOCH, RUN, STRENGTH
from tests.evaluation.lora_folders import write_run
from tests.evaluation.plot_stand_in import AxisOption, Plot, Processing


class LoraExtension(SimpleNamespace):
    """The WebUI's list of adapters; empty until it is refreshed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder, refreshed=0, forbidden_network_aliases={})
        self.available_networks: dict[str, SimpleNamespace] = {}
        self.available_network_aliases: dict[str, SimpleNamespace] = {}

    def list_available_networks(self) -> None:
        self.refreshed += 1
        files = sorted(self.folder.rglob("*.safetensors"))
        self.available_networks = {path.stem: SimpleNamespace(filename=str(path)) for path in files}
        self.available_network_aliases = dict(self.available_networks)


@pytest.fixture
def folder(tmp_path):
    """cat with epochs 1, 2 and last (3); dog with epochs 1 and last (2)."""
    write_run(tmp_path / "cat", 3, changed=1000)
    write_run(tmp_path / "dog", 2, changed=2000)
    return tmp_path


@pytest.fixture
def networks(folder, monkeypatch):
    extension = LoraExtension(folder)
    monkeypatch.setitem(sys.modules, "networks", extension)
    return extension


@pytest.fixture
def plot(folder, networks, monkeypatch):
    plot = Plot()
    for name, module in plot.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    assert xyz_axes.register(lambda: folder)
    return plot


@pytest.fixture
def prompts(plot):
    """prompts(prompt, axis, axis, ...): the cells' prompts."""

    def run(prompt: str, *axes: tuple, **more: object) -> list:
        return [cell.prompt for cell in plot.run(Processing(prompt), *axes, **more)]

    return run


def typed(stem: str, strength: str = "1") -> str:
    return f"a <lora:{stem}:{strength}>"


class TestRegistering:
    def test_adds_three_axes_for_both_tabs_after_the_webuis(self, plot):
        ours = plot.module.axis_options[-3:]
        assert [option.label for option in ours] == [RUN, EPOCH, STRENGTH]
        assert all(type(option) is AxisOption for option in ours)  # a subclass is for one tab only
        assert len(plot.module.axis_options) == 5 + 3

    def test_twice_changes_nothing(self, plot, folder):
        before = [option.label for option in plot.module.axis_options]
        assert xyz_axes.register(lambda: folder)
        assert [option.label for option in plot.module.axis_options] == before

    def test_changes_the_webuis_own_list(self, plot, folder):
        options = plot.module.axis_options
        xyz_axes.register(lambda: folder)
        assert plot.module.axis_options is options

    def test_after_a_reload_adds_them_again(self, plot, prompts, folder):
        plot.load_scripts()
        assert RUN not in [option.label for option in plot.module.axis_options]
        xyz_axes.register(lambda: folder)
        assert prompts("a", (RUN, ["cat"])) == [typed("cat")]

    def test_without_the_plot_returns_false(self, plot, folder):
        plot.scripts.scripts_data = plot.scripts.scripts_data[:1]
        assert not xyz_axes.register(lambda: folder)


class TestChoices:
    def test_are_the_current_ones(self, plot, folder):
        assert plot.axis(RUN).choices() == ["dog", "cat"]
        assert plot.axis(EPOCH).choices() == ["1", "2", "last"]
        write_run(folder / "new", 5, changed=3000)
        assert plot.axis(RUN).choices() == ["new", "dog", "cat"]
        assert plot.axis(EPOCH).choices() == ["1", "2", "3", "4", "last"]

    def test_of_strength_are_text_as_dropdowns_require(self, plot):
        assert {"0", "0.25", "0.5", "0.75", "1"} <= set(plot.axis(STRENGTH).choices())

    def test_are_all_accepted(self, plot, prompts):
        for label in (RUN, EPOCH, STRENGTH):
            choices = plot.axis(label).choices()
            assert len(prompts("<lora:cat:1>", (label, choices))) == len(choices)


class TestCells:
    def test_take_from_the_prompt_what_no_axis_sets(self, prompts):
        tag = "<lora:cat-000001:0.7> a"
        assert prompts(tag, (EPOCH, ["1", "2", "last"])) == [
            "<lora:cat-000001:0.7> a",
            "<lora:cat-000002:0.7> a",
            "<lora:cat:0.7> a",
        ]
        assert prompts(tag, (STRENGTH, ["0", "0.5"])) == ["<lora:cat-000001:0> a", "<lora:cat-000001:0.5> a"]
        assert prompts(tag, (RUN, ["dog", "cat"])) == ["<lora:dog-000001:0.7> a", "<lora:cat-000001:0.7> a"]

    @pytest.mark.parametrize("order", itertools.permutations(range(3)))
    @pytest.mark.parametrize("prompt", ["a", "a <lora:cat-000002:0.1:0.2>", "a <lora:dog:0.3>"])
    @pytest.mark.parametrize("text", [False, True])
    def test_of_all_three_axes_have_the_typed_tag_in_any_order(self, prompts, order, prompt, text):
        values = [(RUN, ["cat", "dog"]), (EPOCH, ["last", "1"]), (STRENGTH, ["0.5", "-1"])]
        x, y, z = (values[i] for i in order)
        expected = []
        for cell in ((x_, y_, z_) for z_ in z[1] for y_ in y[1] for x_ in x[1]):
            run, epoch, strength = (cell[order.index(i)] for i in range(3))
            expected.append(typed(run if epoch == "last" else f"{run}-000001", strength))
        assert prompts(prompt, x, y, z, text=text) == expected

    def test_with_the_run_on_a_later_axis_resolve_the_epoch_by_number(self, prompts):
        """Epoch 2 is dog's last file; for cat, it must not become the last file."""
        found = prompts("a <lora:dog:1>", (EPOCH, ["2"]), (RUN, ["dog", "cat"]))
        assert found == [typed("dog"), typed("cat-000002")]

    def test_may_have_an_invalid_epoch_before_the_last_axis(self, prompts):
        """dog has no epoch 3, but no cell uses it."""
        assert prompts("a <lora:dog:1>", (EPOCH, ["3"]), (RUN, ["cat"])) == [typed("cat")]

    def test_keep_other_tags(self, prompts):
        prompt = "<lora:foreign:1> (a:1.1) <lora:cat:0.5>, <lora:dog:0.2> <lyco:x>"
        assert prompts(prompt, (STRENGTH, ["1"])) == ["<lora:foreign:1> (a:1.1) <lora:cat:1>, <lora:dog:0.2> <lyco:x>"]

    def test_keep_a_style_and_change_the_run_on_the_axis(self, prompts):
        prompt = "<lora:dog:0.2> a <lora:cat:0.5>"
        for order in ([(RUN, ["cat"]), (STRENGTH, ["1"])], [(STRENGTH, ["1"]), (RUN, ["cat"])]):
            assert prompts(prompt, *order) == ["<lora:dog:0.2> a <lora:cat:1>"]

    def test_accept_typed_ranges(self, prompts):
        found = prompts("a", (RUN, "cat"), (EPOCH, "1-2, last"), (STRENGTH, "0-1 [3]"), text=True)
        assert found == [typed(stem, s) for s in ("0", "0.5", "1") for stem in ("cat-000001", "cat-000002", "cat")]

    def test_have_labels_with_the_axis_and_its_value(self, plot, prompts):
        prompts("a", (RUN, ["cat"]), (EPOCH, ["2", "last"]), (STRENGTH, ["0.80", "1"]))
        assert plot.labels == [["Run: cat"], ["Epoch: 2", "Epoch: last"], ["Strength: 0.8", "Strength: 1"]]


class TestWithTheWebuisAxes:
    @pytest.mark.parametrize("flipped", [False, True])
    def test_seed(self, plot, flipped):
        both = [(STRENGTH, ["0.5", "1"]), ("Seed", ["4", "9"])]
        cells = plot.run(Processing("a <lora:cat>"), *(both[::-1] if flipped else both))
        assert {(cell.prompt, cell.seed) for cell in cells} == {
            (typed("cat", s), n) for s in ("0.5", "1") for n in (4, 9)
        }

    @pytest.mark.parametrize("flipped", [False, True])
    def test_search_and_replace_of_other_words(self, prompts, flipped):
        both = [(EPOCH, ["1", "last"]), ("Prompt S/R", ["red", "blue"])]
        found = prompts("a red <lora:cat:0.5>", *(both[::-1] if flipped else both))
        assert set(found) == {f"a {c} <lora:{s}:0.5>" for c in ("red", "blue") for s in ("cat-000001", "cat")}

    def test_search_and_replace_on_an_earlier_axis_changes_the_tag_that_is_found(self, prompts):
        found = prompts("a <lora:cat:0.5>", ("Prompt S/R", ["lora:cat", "lora:dog"]), (EPOCH, ["1"]))
        assert found == [typed("cat-000001", "0.5"), typed("dog-000001", "0.5")]

    def test_search_and_replace_between_two_axes_affects_the_second(self, prompts):
        found = prompts("a <lora:cat:0.5>", (EPOCH, ["1"]), ("Prompt S/R", ["lora:cat", "lora:dog"]), (STRENGTH, ["2"]))
        assert found == [typed("cat-000001", "2"), typed("dog-000001", "2")]

    def test_search_and_replace_may_add_the_tag(self, prompts):
        assert prompts("a TAG", ("Prompt S/R", ["TAG", "<lora:dog:1>"]), (RUN, ["cat"])) == [
            "a TAG <lora:cat:1>",
            typed("cat"),
        ]


class TestProcessing:
    def test_is_not_changed(self, plot):
        p = Processing("a <lora:cat:0.5>", hr_prompt="b <lora:cat:1>", all_prompts=["a <lora:cat:0.5>"])
        before = deepcopy(p)
        plot.run(p, (RUN, ["cat", "dog"]), (EPOCH, ["1"]), (STRENGTH, ["0.1"]))
        assert p == before
        assert not hasattr(p, "lora_train_cell")

    def test_has_all_prompts_changed_if_they_are_set(self, plot):
        p = Processing("a", all_prompts=["a", "b <lora:cat:0.5>"])
        cells = plot.run(p, (RUN, ["cat", "dog"]))
        assert [cell.all_prompts for cell in cells] == [
            ["a <lora:cat:1>", "b <lora:cat:0.5>"],
            ["a <lora:dog:1>", "b <lora:dog:0.5>"],
        ]

    def test_may_have_a_list_of_prompts(self, plot):
        (cell,) = plot.run(Processing(["a <lora:cat:1>", "b <lora:cat:0.5>"]), (EPOCH, ["1"]))
        assert cell.prompt == ["a <lora:cat-000001:1>", "b <lora:cat-000001:0.5>"]

    @pytest.mark.parametrize(
        ("second", "changed"),
        [
            ("", ""),
            ("plain", "plain"),
            ("b <lora:cat:0.3>", "b <lora:dog:0.3>"),
            ("b <lora:x:1>", "b <lora:x:1>"),
            (["b <lora:cat>"], ["b <lora:dog>"]),
        ],
    )
    def test_has_the_tag_of_the_hires_prompt_changed_if_it_has_one(self, plot, second, changed):
        (cell,) = plot.run(Processing("a <lora:cat:1>", hr_prompt=second), (RUN, ["dog"]))
        assert cell.hr_prompt == changed

    def test_can_be_used_for_another_grid(self, plot):
        """img2img's batch makes many grids with one object."""
        p = Processing("a <lora:dog:0.2> <lora:cat:0.5>")
        plot.run(p, (RUN, ["cat"]), (EPOCH, ["1"]))
        (cell,) = plot.run(p, (STRENGTH, ["1"]))
        assert cell.prompt == "a <lora:dog:1> <lora:cat:0.5>"
        p.prompt = "b <lora:cat>"
        (cell,) = plot.run(p, (EPOCH, ["2"]))
        assert cell.prompt == "b <lora:cat-000002>"


class TestRefused:
    @pytest.fixture
    def refused(self, plot, complaint):
        """refused(prompt, axis, ...): the error message; there must be no cells."""

        def run(prompt: str, *axes: tuple, styles: tuple = (), **more: object) -> str:
            message = complaint(plot.run, Processing(prompt, styles=list(styles)), *axes, **more)
            assert plot.cells == []
            return message

        return run

    def test_an_unknown_run(self, refused):
        assert "There is no run 'bird'" in refused("a", (RUN, ["cat", "bird"]))

    def test_an_epoch_that_no_run_has(self, refused):
        assert "The run cat has no epoch 9" in refused("a <lora:cat:1>", (EPOCH, "1, 9"), text=True)

    @pytest.mark.parametrize("order", itertools.permutations(range(3)))
    def test_an_epoch_that_one_of_the_runs_does_not_have(self, refused, order):
        values = [(RUN, ["cat", "dog"]), (EPOCH, ["1", "3"]), ("Seed", ["1", "2"])]
        assert "The run dog has no epoch 3" in refused("a", *(values[i] for i in order))

    def test_the_prompts_epoch_in_a_run_that_does_not_have_it(self, refused, folder):
        write_run(folder / "cat", 9)
        assert "The run dog has no epoch 7" in refused("a <lora:cat-000007:1>", (RUN, ["cat", "dog"]))

    @pytest.mark.parametrize("bad", ["abc", "nan", "inf", "-inf"])
    def test_a_strength_that_is_not_a_number(self, refused, bad):
        for text in (False, True):
            assert f"{bad!r} is not a " in refused("a <lora:cat:1>", ("Seed", ["1"]), (STRENGTH, ["1", bad]), text=text)

    def test_no_run_at_all(self, refused):
        for axis in ((EPOCH, ["1"]), (STRENGTH, ["1"])):
            assert "The prompt has no tag of a run" in refused("a <lora:foreign:1>", axis)

    def test_a_run_that_search_and_replace_removes(self, refused):
        assert "The prompt has no tag of a run" in refused(
            "a <lora:cat:1>", ("Prompt S/R", ["<lora:cat:1>", "b"]), (EPOCH, ["1"])
        )

    @pytest.mark.parametrize("label", [RUN, EPOCH, STRENGTH])
    def test_an_axis_without_values(self, refused, label):
        assert f"The axis {label} has no value" in refused("a <lora:cat:1>", (label, []))
        assert f"The axis {label} has no value" in refused("a <lora:cat:1>", (label, " , "), text=True)

    def test_a_second_tag_in_a_style(self, refused, plot, complaint):
        plot.styles["mine"] = SimpleNamespace(prompt="{prompt}, <lora:cat-000001:0.4>")
        plot.styles["other"] = SimpleNamespace(prompt="nice <lora:foreign:1>")
        plot.styles["empty"] = SimpleNamespace(prompt=None)
        assert "The style mine contains the tag" in refused("a", (RUN, ["cat"]), styles=("empty", "mine"))
        assert "The style mine contains the tag" in refused("a", (RUN, ["cat"]), ("Styles", "other,mine"), text=True)
        assert len(plot.run(Processing("a", styles=["other", "empty", "missing"]), (RUN, ["cat"]))) == 1
        assert len(plot.run(Processing("a", styles=["mine"]), (RUN, ["dog"]))) == 1
        p = Processing(
            "a <lora:cat:1>", styles=["mine"]
        )  # the tag in the prompt becomes dog, the one in the style would stay
        assert "The style mine contains the tag" in complaint(plot.run, p, (RUN, ["dog"]), (STRENGTH, ["1"]))

    def test_styles_are_not_changed(self, plot):
        p = Processing("a", styles=["one"])
        cells = plot.run(p, (RUN, ["cat"]), ("Styles", ["two", "three"]))
        assert [cell.styles for cell in cells] == [["one", "two"], ["one", "three"]]
        assert p.styles == ["one"]


class TestTheWebuisListOfAdapters:
    def test_is_refreshed_once_for_unknown_files(self, plot, networks):
        for _ in range(2):
            plot.run(Processing("a"), (RUN, ["cat", "dog"]), (EPOCH, ["1", "last"]))
            assert networks.refreshed == 1
            assert {"cat", "cat-000001", "dog", "dog-000001"} <= set(networks.available_networks)

    def test_is_not_refreshed_for_files_that_no_cell_uses(self, plot, networks, folder):
        plot.run(Processing("a"), (RUN, ["cat"]))
        write_run(folder / "new", 3)
        plot.run(Processing("a"), (RUN, ["cat"]))
        assert networks.refreshed == 1

    def test_with_another_file_of_the_same_name_is_refused(self, plot, networks, folder, complaint):
        other = write_run(folder / "z" / "other", 1) / "other.safetensors"
        other = other.rename(other.with_name("cat.safetensors"))
        message = complaint(plot.run, Processing("a"), (RUN, ["cat"]))
        assert str(other) in message
        assert str(folder / "cat" / "cat.safetensors") in message
        assert plot.cells == []

    def test_is_searched_by_file_name_if_an_alias_is_ambiguous(self, plot, networks):
        networks.list_available_networks()
        networks.available_network_aliases["cat"] = SimpleNamespace(filename="/foreign/with the alias cat.safetensors")
        networks.forbidden_network_aliases["cat"] = 1
        assert len(plot.run(Processing("a"), (RUN, ["cat"]))) == 1
        assert networks.refreshed == 1

    def test_must_exist(self, plot, monkeypatch, complaint):
        monkeypatch.delitem(sys.modules, "networks")
        assert "Lora extension is off" in complaint(plot.run, Processing("a"), (RUN, ["cat"]))


class TestAnotherFamily:
    @pytest.fixture
    def loaded(self, plot, networks):
        """loaded("sd2"): loads such a checkpoint in the WebUI; all adapters are SDXL's."""

        def load(kind: str) -> None:
            networks.list_available_networks()
            for network in networks.available_networks.values():
                network.sd_version = SimpleNamespace(name="SDXL")
            plot.shared.sd_model = SimpleNamespace(**{f"is_{name}": name == kind for name in ("sd1", "sd2", "sdxl")})

        return load

    def test_is_refused_before_the_first_cell(self, plot, loaded, complaint):
        loaded("sd2")
        message = complaint(plot.run, Processing("a"), (RUN, ["cat"]), (STRENGTH, ["1"]))
        assert message.startswith("cat is for Stable Diffusion XL, but a Stable Diffusion 2.x checkpoint is loaded.")
        assert plot.cells == []

    @pytest.mark.parametrize("kind", ["sdxl", "another"])
    def test_the_same_family_and_unknown_ones_are_accepted(self, plot, loaded, kind):
        loaded(kind)
        assert len(plot.run(Processing("a"), (RUN, ["cat"]), (STRENGTH, ["1", "2"]))) == 2


def test_the_values_sent_to_the_plot_make_a_grid_of_the_runs_epochs_and_strengths(plot, prompts, folder):
    sent = xyz_axes.send_values(SavedRuns.find(folder).run("cat"))
    assert [sent[axis]["label"] for axis in "xyz"] == [EPOCH, STRENGTH, RUN]
    assert sent["x"]["values"] == ["1", "2", "last"]
    assert all(set(sent[axis]["values"]) <= {*plot.axis(sent[axis]["label"]).choices()} for axis in "xyz")
    found = prompts("a", *[(sent[axis]["label"], sent[axis]["values"]) for axis in "xyz"])
    assert found == [typed(stem, s) for s in sent["y"]["values"] for stem in ("cat-000001", "cat-000002", "cat")]
