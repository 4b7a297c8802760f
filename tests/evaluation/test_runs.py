"""The runs and epochs in a LoRA folder, and their files."""

import pytest

from lib_lora_train.config import TrainConfig
from lib_lora_train.evaluation.runs import LAST, SavedRuns
from lib_lora_train.training.run_folder import RunFolder
from tests.evaluation.lora_folders import write_adapter, write_run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "Lora"


class TestFindingRuns:
    def test_sorts_them_by_age_newest_first(self, folder):
        write_run(folder / "old", 2, changed=1000)
        write_run(folder / "new", 2, changed=3000)
        write_run(folder / "between", 2, changed=2000)
        assert SavedRuns.find(folder).names == ["new", "between", "old"]

    def test_takes_the_age_of_the_last_epoch(self, folder):
        write_run(folder / "unfinished", 3, finished=False, changed=1000)
        write_run(folder / "finished", 3, changed=2000)
        write_adapter(folder / "unfinished" / "unfinished-000004.safetensors", changed=3000)
        assert SavedRuns.find(folder).names == ["unfinished", "finished"]
        write_adapter(folder / "finished" / "finished.safetensors", changed=4000)
        assert SavedRuns.find(folder).names == ["finished", "unfinished"]

    def test_searches_sub_folders_but_not_hidden_ones(self, folder):
        write_run(folder / "mine" / "styles" / "deep", 1)
        write_run(folder / ".trash" / "deleted", 1)
        write_run(folder / ".hidden", 1)
        assert SavedRuns.find(folder).names == ["deep"]

    def test_follows_links_and_ends_with_circular_ones(self, folder, tmp_path):
        write_run(tmp_path / "elsewhere" / "linked", 1)
        write_run(folder / "here", 1)
        (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (folder / "here" / "circle").symlink_to(folder, target_is_directory=True)
        (folder / "broken.safetensors").symlink_to(tmp_path / "nothing")
        assert sorted(SavedRuns.find(folder).names) == ["here", "linked"]

    @pytest.mark.parametrize(
        "other",
        [
            "cat.safetensors",
            "animals/cat.safetensors",
            "cat/dog.safetensors",
            "cat/cat-1.safetensors",
            "cat/cat-step00000010.safetensors",
            "cat/cat-000001.pt",
            "cat/cat2-000001.safetensors",
            "cat/cat.safetensors/readme.txt",
        ],
    )
    def test_ignores_other_files(self, folder, other):
        write_adapter(folder / other)
        assert SavedRuns.find(folder).names == []

    def test_ignores_files_in_the_folder_itself(self, folder):
        write_adapter(folder / "Lora.safetensors")
        assert SavedRuns.find(folder).names == []

    def test_finds_none_in_a_missing_folder(self, folder):
        assert SavedRuns.find(folder / "missing").names == []
        assert SavedRuns.find(folder / "missing").epochs == [LAST]

    def test_lists_the_newer_of_two_with_the_same_name(self, folder):
        write_run(folder / "a" / "cat", 1, changed=1000)
        newer = write_run(folder / "b" / "cat", 2, changed=2000)
        runs = SavedRuns.find(folder)
        assert runs.names == ["cat"]
        assert runs.run("cat").adapter(LAST).path.parent == newer
        assert runs.adapter_of("cat").path.parent == newer


class TestEpochs:
    def test_are_the_numbers_and_last(self, folder):
        write_run(folder / "cat", 12)
        assert SavedRuns.find(folder).run("cat").epochs == [*range(1, 12), LAST]

    def test_of_an_unfinished_run_are_only_numbers(self, folder):
        write_run(folder / "cat", 3, finished=False)
        run = SavedRuns.find(folder).run("cat")
        assert run.epochs == [1, 2, 3]
        assert run.adapter(LAST).stem == "cat-000003"

    def test_of_all_runs_are_listed_together(self, folder):
        write_run(folder / "cat", 3)
        write_run(folder / "dog", 2, finished=False)
        assert SavedRuns.find(folder).epochs == [1, 2, LAST]

    def test_have_files(self, folder):
        run = SavedRuns.find(write_run(folder / "cat", 3).parent).run("cat")
        assert [run.adapter(epoch).path.name for epoch in (1, 2, LAST)] == [
            "cat-000001.safetensors",
            "cat-000002.safetensors",
            "cat.safetensors",
        ]

    def test_include_the_number_of_the_last_one(self, folder):
        write_run(folder / "cat", 3)
        assert SavedRuns.find(folder).run("cat").adapter(3).stem == "cat"

    def test_that_do_not_exist_are_refused_with_those_that_do(self, folder, complaint):
        write_run(folder / "cat", 3)
        write_run(folder / "dog", 1)
        runs = SavedRuns.find(folder)
        assert complaint(runs.run("cat").adapter, 4) == "The run cat has no epoch 4. It has 1, 2 and last."
        assert complaint(runs.run("dog").adapter, 2) == "The run dog has no epoch 2. It has last."

    @pytest.mark.parametrize(
        "content",
        [b"", b"short", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}", b"\3\0\0\0\0\0\0\0[1]", b"\2\0\0\0\0\0\0\0{}more"],
    )
    def test_can_be_listed_with_a_damaged_last_file(self, folder, complaint, content):
        write_run(folder / "cat", 3)
        (folder / "cat" / "cat.safetensors").write_bytes(content)
        assert "has no epoch 3" in complaint(SavedRuns.find(folder).run("cat").adapter, 3)

    def test_are_those_that_the_run_folder_writes(self, folder):
        made = RunFolder.at(TrainConfig.from_flat({"name": "cat", "lora_dir": str(folder)}))
        for path, epoch in (
            (made.epoch_file(1), 1),
            (made.epoch_file(2), 2),
            (made.step_file(40), 2),
            (made.final_file, 3),
        ):
            write_adapter(path, epoch)
        run = SavedRuns.find(folder).run("cat")
        assert [run.adapter(epoch).path for epoch in (1, 2, 3)] == [
            made.epoch_file(1),
            made.epoch_file(2),
            made.final_file,
        ]
        assert SavedRuns.find(folder).adapter_of("cat-step00000040").epoch is None


class TestNames:
    @pytest.mark.parametrize("name", ["cat", "my cat v1.5", "cat (old) [x]", "кошка 猫", "cat+dog", "Cat"])
    def test_may_be_any_folder_name(self, folder, name):
        write_run(folder / name, 2)
        runs = SavedRuns.find(folder)
        assert runs.names == [name]
        assert runs.adapter_of(f"{name}-000001").epoch == 1
        assert runs.adapter_of(name).epoch == LAST

    def test_are_found_regardless_of_case_but_an_exact_match_wins(self, folder):
        write_run(folder / "Cat", 1, changed=1000)
        assert SavedRuns.find(folder).run("cAT").name == "Cat"
        assert SavedRuns.find(folder).adapter_of(" CAT ").stem == "Cat"
        write_run(folder / "cat", 1, changed=2000)
        runs = SavedRuns.find(folder)
        assert [runs.run(name).name for name in ("Cat", "cat")] == ["Cat", "cat"]
        assert [runs.adapter_of(name).stem for name in ("Cat", "cat")] == ["Cat", "cat"]

    def test_of_other_adapters_are_ignored(self, folder):
        write_run(folder / "cat", 2)
        write_adapter(folder / "cat" / "cat-final.safetensors")
        runs = SavedRuns.find(folder)
        assert [runs.adapter_of(name) for name in ("cat-final", "cat-000002", "dog", "")] == [None] * 4

    def test_that_do_not_exist_are_refused_with_similar_ones(self, folder, complaint):
        message = complaint(SavedRuns.find(folder).run, "cat")
        assert message == f"There is no run 'cat': {folder} contains no runs yet. Train one first."
        for name in ("mycat", "mycar", "elephant"):
            write_run(folder / name, 1)
        message = complaint(SavedRuns.find(folder).run, "mycab")
        assert message.startswith(f"There is no run 'mycab' in {folder}. Choose another one, such as myca")
        assert "elephant" not in message
