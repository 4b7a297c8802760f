"""Whole runs on a miniature checkpoint: what they write and report, and what they leave unchanged."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import hashlib
import json
import os
import random
import struct
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training import checkpointer, evaluator, session
from lib_lora_train.training.events import (
    Encoding,
    EpochDone,
    Finished,
    Progress,
    Sampled,
    Saved,
    Started,
    Validated,
    Warned,
)
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train
from tests.training.runs import SharingHost, adapter_files, final_weights, of_kind


def metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]


def adapters(config: TrainConfig) -> Path:
    return Path(config.run.lora_dir) / config.run.name


def everything_in(checkpoint) -> dict[str, torch.Tensor]:
    parts = {"unet": checkpoint.unet, "vae": checkpoint.vae}
    parts |= {f"text_encoder_{number}": text.weights for number, text in enumerate(checkpoint.text_encoders)}
    return {f"{part}.{name}": tensor for part, weights in parts.items() for name, tensor in weights.items()}


class TestFiles:
    def test_an_epoch_is_numbered_and_the_last_one_has_the_runs_name(self, tiny, host):
        config = tiny(epochs=3)
        assert train(config, host) == adapters(config) / "tiny.safetensors"
        assert list(adapter_files(config)) == ["tiny-000001.safetensors", "tiny-000002.safetensors", "tiny.safetensors"]

    def test_every_so_many_epochs_and_steps(self, tiny, host):
        config = tiny(epochs=3, save_every_n_epochs=2, save_every_n_steps=3)  # 2 steps an epoch, 6 in all
        train(config, host)
        assert list(adapter_files(config)) == [
            "tiny-000002.safetensors",
            "tiny-step00000003.safetensors",
            "tiny.safetensors",
        ]

    def test_steps_that_end_an_epoch_are_saved_too(self, tiny, host):
        config = tiny(epochs=2, save_every_n_epochs=0, save_every_n_steps=2)
        train(config, host)
        assert list(adapter_files(config)) == ["tiny-step00000002.safetensors", "tiny.safetensors"]

    def test_only_at_the_end_with_0(self, tiny, host):
        config = tiny(epochs=2, save_every_n_epochs=0)
        train(config, host)
        assert list(adapter_files(config)) == ["tiny.safetensors"]

    def test_epochs_keep_their_numbers_when_steps_cross_their_ends(self, tiny, host):
        config = tiny(epochs=3, batch_size=1, gradient_accumulation=3)  # 4 batches an epoch; steps end at 3, 6, 9, 12
        events = []
        train(config, host, events.append)
        assert [(event.epoch, event.step) for event in of_kind(events, EpochDone)] == [(1, 2), (2, 3), (3, 4)]
        assert list(adapter_files(config)) == ["tiny-000001.safetensors", "tiny-000002.safetensors", "tiny.safetensors"]
        first = metadata(adapters(config) / "tiny-000001.safetensors")
        assert (first["ss_epoch"], first["ss_steps"]) == ("1", "2")

    def test_max_steps_is_exact(self, tiny, host):
        config, events = tiny(epochs=5, max_steps=3), []
        train(config, host, events.append)
        assert events[-1] == Finished(str(adapters(config) / "tiny.safetensors"), 3)
        assert metadata(adapters(config) / "tiny.safetensors")["ss_steps"] == "3"
        assert list(adapter_files(config)) == ["tiny-000001.safetensors", "tiny.safetensors"]

    def test_different_epochs_are_different_adapters(self, tiny, host):
        config = tiny(epochs=2)
        train(config, host)
        first, last = (load_file(adapters(config) / name) for name in adapter_files(config))
        assert any(not torch.equal(first[name], last[name]) for name in first)

    def test_two_runs_in_different_folders_write_identical_bytes(self, tiny, host, tmp_path):
        first = tiny(epochs=2)
        train(first, host)
        second = tiny(epochs=2, lora_dir=str(tmp_path / "b" / "Lora"), runs_dir=str(tmp_path / "b" / "runs"))
        train(second, host)
        assert adapter_files(first) == adapter_files(second)

    def test_another_seed_gives_another_adapter(self, tiny, host):
        first, second = tiny(), tiny(name="other", seed=1)
        train(first, host)
        train(second, host)
        mine, others = final_weights(first), final_weights(second)
        assert any(not torch.equal(mine[name], others[name]) for name in mine)

    @pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
    def test_have_the_configured_precision(self, tiny, host, precision, dtype):
        config = tiny(save_precision=precision, max_steps=1)
        train(config, host)
        assert {tensor.dtype for tensor in final_weights(config).values()} == {dtype}


class TestMetadata:
    @pytest.fixture
    def written(self, tiny, host):
        config = tiny(rank=4, alpha=2.0, epochs=1, seed=5)
        train(config, host)
        return config, metadata(adapters(config) / "tiny.safetensors")

    def test_has_what_webuis_and_model_sites_read(self, written, host, miniature):
        _, values = written
        expected = {
            "ss_output_name": "tiny",
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_base_model_version": host.checkpoint.family.base_model_version,
            "ss_sd_model_name": "miniature",
            "ss_seed": "5",
            "ss_num_train_images": "4",
            "ss_num_epochs": "1",
            "ss_epoch": "1",
            "ss_steps": "2",
            "ss_max_train_steps": "2",
            "ss_num_batches_per_epoch": "2",
        }
        assert expected.items() <= values.items()
        assert values["ss_new_sd_model_hash"] == hashlib.sha256(miniature.read_bytes()).hexdigest()
        assert json.loads(values["ss_tag_frequency"])["1_images"]["cat"] == 4

    def test_the_settings_can_be_read_back(self, written):
        config, values = written
        read = TrainConfig.from_toml(values["lora_train_config"])
        assert read.adapter == config.adapter
        assert read.optimizer == config.optimizer

    def test_no_path_of_this_machine_is_in_the_file(self, written, tmp_path, miniature):
        config, _ = written
        for content in adapter_files(config).values():
            for folder in (tmp_path, miniature.parent, Path.home(), Path.cwd()):
                assert str(folder).encode() not in content
            assert b'"/' not in content
            assert b'\\"/' not in content


class TestEvents:
    def test_are_reported_and_recorded_alike(self, tiny, host):
        config, events = tiny(epochs=2, validation_images=1, validate_every_n_epochs=1), []
        train(config, host, events.append)
        recorded = list(RunFolder.at(config).events())
        assert recorded == [event for event in events if not isinstance(event, Encoding)]

    def test_follow_the_run_from_start_to_end(self, tiny, host):
        config, events = (
            tiny(epochs=2, validation_images=1, validate_every_n_epochs=1, sample_every_n_epochs=2, sample_steps=1),
            [],
        )
        train(config, host, events.append)
        kinds = [type(event) for event in events if type(event) not in (Encoding, Progress)]
        each = [Saved, Validated, EpochDone]
        assert kinds == [Started, Validated, *each, Saved, Validated, Sampled, EpochDone, Finished]
        start = of_kind(events, Started)[0]
        weights = sum(t.numel() for name, t in final_weights(config).items() if not name.endswith("alpha"))
        assert (start.step, start.steps, start.epochs, start.images, start.adapter_parameters) == (0, 4, 2, 4, weights)
        encoded = [event for event in of_kind(events, Encoding) if event.what == "images"]
        assert encoded[-1].done == encoded[-1].total == 4
        assert [Path(e.path).name for e in of_kind(events, Saved)] == ["tiny-000001.safetensors", "tiny.safetensors"]
        for path in of_kind(events, Sampled)[0].paths:
            assert Path(path).is_file()

    def test_sample_images_carry_their_prompts(self, tiny, host):
        prompts = ["a cat", "a star"]
        config, events = tiny(sample_every_n_epochs=1, sample_prompts=prompts, sample_steps=1, max_steps=1), []
        train(config, host, events.append)
        (recorded,) = of_kind(list(RunFolder.at(config).events()), Sampled)
        assert recorded == of_kind(events, Sampled)[0]
        assert (recorded.prompts, len(recorded.paths)) == (prompts, 2)

    def test_progress_reaches_every_step_and_its_loss_is_the_mean_of_the_slice(self, tiny, host, step_by_step):
        config, events = tiny(epochs=3), []
        train(config, host, events.append)
        assert [(e.step, e.epoch) for e in of_kind(events, Progress)] == [(i + 1, i // 2 + 1) for i in range(6)]
        assert all(0.1 < event.loss < 10 for event in of_kind(events, Progress))

    def test_the_host_gets_the_gpu_between_slices(self, tiny, host, step_by_step):
        slots = []
        train(tiny(epochs=2), host, lambda event: slots.append((type(event), host.slots)))
        started = next(count for kind, count in slots if kind is Started)
        assert [count - started for kind, count in slots if kind is Progress] == [1, 2, 3, 4]


class TestTheHost:
    def test_gets_its_tensors_back_bit_for_bit(self, tiny, host):
        before = {name: (t.data_ptr(), t.clone()) for name, t in everything_in(host.checkpoint).items()}
        train(tiny(train_text_encoder=True, gradient_checkpointing=True), host)
        for name, tensor in everything_in(host.checkpoint).items():
            pointer, value = before[name]
            assert tensor.data_ptr() == pointer
            assert torch.equal(tensor, value)
            assert tensor.grad is None
            assert not tensor.requires_grad

    def test_keeps_its_random_generators_untouched(self, tiny, host):
        torch.manual_seed(11)
        np.random.seed(12)
        random.seed(13)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        train(
            tiny(
                validation_images=1,
                validate_every_n_epochs=1,
                sample_every_n_epochs=1,
                sample_steps=2,
                sample_sampler="euler_a",
            ),
            host,
        )
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])
        assert random.getstate() == before[2]

    def test_keeps_gradients_on_and_its_default_dtype(self, tiny, host):
        train(tiny(), host)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32


class TestLearning:
    def test_the_random_state_of_the_process_does_not_matter(self, tiny, host):
        first, second = tiny(), tiny(name="tiny2")
        torch.manual_seed(1)
        train(first, host)
        torch.manual_seed(2)
        train(second, host)
        mine, others = final_weights(first), final_weights(second)
        assert all(torch.equal(mine[name], others[name]) for name in mine)

    def test_gradient_checkpointing_changes_memory_and_not_the_adapter(self, tiny, host):
        plain, saving = (
            tiny(epochs=2, train_text_encoder=True),
            tiny(name="saving", epochs=2, gradient_checkpointing=True, train_text_encoder=True),
        )
        train(plain, host)
        train(saving, host)
        mine, others = final_weights(plain), final_weights(saving)
        assert all(torch.allclose(mine[name], others[name], atol=1e-5) for name in mine)

    def test_the_text_encoder_learns_only_when_asked(self, tiny, host):
        without, both = tiny(), tiny(name="both", train_text_encoder=True)
        train(without, host)
        train(both, host)
        assert not any(name.startswith("lora_te") for name in final_weights(without))
        ups = [
            t for name, t in final_weights(both).items() if name.startswith("lora_te") and name.endswith("up.weight")
        ]
        assert len(ups) == 3 * 6  # layers times q, k, v, out, fc1, fc2
        assert sum(bool(up.any()) for up in ups) == len(ups)

    def test_regularisation_images_and_prior_weight_change_what_is_learned(self, tiny, host, tmp_path):
        from tests.training.runs import photos

        photos(tmp_path / "class", 2)
        adapters_by_weight = []
        for name, weight in (("full", 1.0), ("half", 0.5)):
            config = tiny(
                name=name, regularization_folder=str(tmp_path / "class"), prior_loss_weight=weight, max_steps=2
            )
            train(config, host)
            adapters_by_weight.append(final_weights(config))
        full, half = adapters_by_weight
        assert any(not torch.equal(full[name], half[name]) for name in full)


class TestContinuing:
    @pytest.fixture
    def earlier(self, tiny, host):
        config = tiny(name="earlier", rank=3, alpha=1.5)
        return train(config, host)

    def test_takes_rank_and_alpha_of_the_file(self, tiny, host, earlier):
        config = tiny(continue_from=str(earlier), rank=8, alpha=8.0)
        values = metadata(train(config, host))
        weights = final_weights(config)
        assert all(t.shape[0] == 3 for name, t in weights.items() if name.endswith("down.weight"))
        assert all(t.item() == 1.5 for name, t in weights.items() if name.endswith("alpha"))
        assert (values["ss_network_dim"], values["ss_network_alpha"]) == ("3", "1.5")

    def test_starts_where_the_file_is(self, tiny, host, earlier):
        config = tiny(continue_from=str(earlier), learning_rate=1e-12, weight_decay=0.0)
        train(config, host)
        before, after = load_file(earlier), final_weights(config)
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)

    def test_adds_text_encoder_layers_where_they_are_asked_for(self, tiny, host, earlier):
        config = tiny(continue_from=str(earlier), train_text_encoder=True)
        train(config, host)
        before, after = load_file(earlier), final_weights(config)
        added = after.keys() - before.keys()
        assert added
        assert all(name.startswith("lora_te_") for name in added)

    def test_does_not_save_the_path_of_the_file(self, tiny, host, earlier, tmp_path):
        path = train(tiny(continue_from=str(earlier)), host)
        assert str(tmp_path).encode() not in path.read_bytes()

    def test_of_a_file_that_does_not_fit_is_refused(self, tiny, host, earlier, complaint, tmp_path):
        from safetensors.torch import save_file

        weights = {name.replace("lora_unet_", "lora_unet_other_"): t for name, t in load_file(earlier).items()}
        save_file(weights, tmp_path / "other.safetensors")
        text = complaint(train, tiny(continue_from=str(tmp_path / "other.safetensors")), host)
        assert "does not fit miniature" in text

    def test_of_a_file_with_layers_of_another_width_is_refused(self, tiny, host, earlier, complaint, tmp_path):
        from safetensors.torch import save_file

        weights = {
            n: torch.cat([t, t], dim=1) if n.endswith("down.weight") else t for n, t in load_file(earlier).items()
        }
        save_file(weights, tmp_path / "wide.safetensors")
        text = complaint(train, tiny(continue_from=str(tmp_path / "wide.safetensors")), host)
        assert "does not fit miniature" in text

    @pytest.mark.parametrize("content", [None, b"", b"no adapter at all", b"\x00" * 100])
    def test_of_a_missing_or_damaged_file_is_refused(self, tiny, host, complaint, tmp_path, content):
        path = tmp_path / "some.safetensors"
        if content is not None:
            path.write_bytes(content)
        config = tiny(continue_from=str(path))
        assert str(path) in complaint(train, config, host)
        assert not RunFolder.at(config).path.exists()


class TestValidation:
    def losses(self, config, host) -> list[float]:
        events = []
        train(config, host, events.append)
        return [event.loss for event in of_kind(events, Validated)]

    def test_is_equal_for_runs_of_different_seeds(self, tiny, host, monkeypatch):
        keep_the_same_image_out(monkeypatch)
        settings = {"validation_images": 1, "validate_every_n_epochs": 1, "max_steps": 1}
        first = self.losses(tiny(**settings), host)
        second = self.losses(tiny(name="other", seed=99, **settings), host)
        assert first[0] == second[0]

    def test_is_equal_when_nothing_has_changed(self, tiny, host, monkeypatch):
        monkeypatch.setattr(session.Loop, "_update", lambda loop: None)
        losses = self.losses(tiny(validation_images=1, validate_every_n_epochs=1, epochs=2), host)
        assert len(losses) == 3
        assert len(set(losses)) == 1

    def test_changes_when_something_was_learned(self, tiny, host):
        losses = self.losses(tiny(validation_images=1, validate_every_n_epochs=1, learning_rate=0.05), host)
        assert losses[0] != losses[1]

    def test_is_left_out_without_validation_images(self, tiny, host):
        assert self.losses(tiny(validate_every_n_epochs=1), host) == []


def keep_the_same_image_out(monkeypatch):
    from lib_lora_train.dataset import examples

    monkeypatch.setattr(examples, "_split", lambda found, wanted, seed: (found[1:], found[:1]))


class TestSampleImages:
    def test_a_failure_is_a_warning_and_not_the_end(self, tiny, host, monkeypatch):
        def fail(*arguments, **named):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(evaluator, "generate", fail)
        config, events = tiny(sample_every_n_epochs=1), []
        assert train(config, host, events.append) is not None
        assert [e.message for e in of_kind(events, Warned)] == [
            "Sample images of epoch 1 failed (out of memory). Training continues."
        ]

    def test_a_prompt_for_each_picture(self, tiny, host):
        config = tiny(sample_every_n_epochs=1, sample_prompts=["a cat", "a star"], sample_steps=1, max_steps=1)
        train(config, host)
        samples = RunFolder.at(config).samples
        assert sorted(path.name for path in samples.iterdir()) == ["epoch-000001-1.png", "epoch-000001-2.png"]

    def test_do_not_change_what_is_learned(self, tiny, host):
        without, sampled = tiny(epochs=2), tiny(name="sampled", epochs=2, sample_every_n_epochs=1, sample_steps=1)
        train(without, host)
        train(sampled, host)
        mine, others = final_weights(without), final_weights(sampled)
        assert all(torch.equal(mine[name], others[name]) for name in mine)


class TestNumbersThatBreak:
    def nan_after(self, monkeypatch, index: int) -> None:
        loss = session.Loop.__dict__["_accumulate"]

        def broken(loop, batch, i):
            value = loss(loop, batch, i)
            return value * float("nan") if i >= index else value

        monkeypatch.setattr(session.Loop, "_accumulate", broken)

    @pytest.mark.usefixtures("step_by_step")
    def test_end_the_run_with_one_sentence_and_keep_earlier_epochs(self, tiny, host, complaint, monkeypatch):
        self.nan_after(monkeypatch, 3)
        config = tiny(epochs=3)
        text = complaint(train, config, host)
        assert text.startswith("The loss became NaN at step 4. What was saved before is intact.")
        assert "learning_rate" in text
        assert list(adapter_files(config)) == ["tiny-000001.safetensors"]
        assert all(t.isfinite().all() for t in load_file(adapters(config) / "tiny-000001.safetensors").values())

    def test_too_little_memory_for_a_step_is_explained(self, tiny, host, complaint, monkeypatch):
        def exhausted(loop, batch, i):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        monkeypatch.setattr(session.Loop, "_accumulate", exhausted)
        assert "gradient_checkpointing" in complaint(train, tiny(), host)

    def test_in_the_first_epoch_leave_no_run_behind(self, tiny, host, complaint, monkeypatch):
        self.nan_after(monkeypatch, 0)
        config = tiny()
        assert "Nothing was saved yet." in complaint(train, config, host)
        assert not RunFolder.at(config).path.exists()
        monkeypatch.undo()
        assert train(config, host) is not None

    @pytest.mark.usefixtures("step_by_step")
    def test_are_never_saved_as_state(self, tiny, host, complaint, monkeypatch):
        """A gradient can break a weight in a step whose own loss was still finite."""
        update = session.Loop._update

        def broken(loop):
            update(loop)
            if loop.step == 2:
                loop.parameters[0].data[0] = float("nan")

        monkeypatch.setattr(session.Loop, "_update", broken)
        config = tiny(epochs=3, save_state_every_n_minutes=0.0)
        assert "NaN" in complaint(train, config, host)
        state = torch.load(RunFolder.at(config).state_file, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["adapter"].values())


class TestAFullDisk:
    @pytest.mark.parametrize("broken", ["fsync", "replace"])
    def test_keeps_earlier_files_and_says_so(self, tiny, host, complaint, monkeypatch, broken):
        config, before = tiny(epochs=3), {}
        actual = getattr(os, broken)

        def full(*arguments, **named):
            files = adapter_files(config)
            if (
                len(files) - sum(name.endswith(".tmp") for name in files) >= 1
                and RunFolder.at(config).state_file.exists()
            ):
                before.update({name: content for name, content in files.items() if not name.endswith(".tmp")})
                raise OSError(errno.ENOSPC, "No space left on device")
            return actual(*arguments, **named)

        monkeypatch.setattr(os, broken, full)
        text = complaint(train, config, host)
        assert "the disk is full" in text
        assert text.count("\n") == 0
        assert list(before) == ["tiny-000001.safetensors"]
        assert adapter_files(config) == before
        monkeypatch.undo()
        assert session.resume(RunFolder.at(config).path, host) is not None

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_under_the_adapters_alone_costs_no_step(self, tiny, host, complaint, monkeypatch, epochs):
        undisturbed = tiny(epochs=epochs, name="undisturbed")
        train(undisturbed, host)
        config = tiny(epochs=epochs)
        run = RunFolder.at(config)
        monkeypatch.setattr(
            checkpointer, "save_adapter", lambda *a: (_ for _ in ()).throw(UserError("the disk is full"))
        )
        assert complaint(train, config, host) == "the disk is full"
        done = max(event.step for event in of_kind(list(run.events()), Progress))
        monkeypatch.undo()
        events = []
        assert resume(run.path, host, events.append) == run.final_file
        assert of_kind(events, Started)[0].step == done
        assert len(adapter_files(config)) == epochs
        assert load_file(run.final_file).keys() == load_file(RunFolder.at(undisturbed).final_file).keys()
        for name, tensor in load_file(run.final_file).items():
            assert torch.equal(tensor, load_file(RunFolder.at(undisturbed).final_file)[name])

    def test_at_the_start_frees_the_name(self, tiny, host, complaint, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        config = tiny()
        monkeypatch.setattr(os, "fsync", full)
        assert "the disk is full" in complaint(train, config, host)
        assert not RunFolder.at(config).path.exists()
        assert not RunFolder.at(config).adapters.exists()
        monkeypatch.undo()
        assert train(config, host) is not None

    def test_under_the_event_record_does_not_end_the_run(self, tiny, host, monkeypatch):
        opened = Path.open

        def full(path, *arguments, **named):
            if path.name == "events.jsonl":
                raise OSError(errno.ENOSPC, "No space left on device")
            return opened(path, *arguments, **named)

        monkeypatch.setattr(Path, "open", full)
        assert train(tiny(), host) is not None


class TestTheName:
    def test_is_free_again_after_a_start_that_failed(self, tiny, host, complaint, monkeypatch):
        config = tiny()
        monkeypatch.setattr(session, "make_optimizer", lambda *a: (_ for _ in ()).throw(UserError("no such thing")))
        assert complaint(train, config, host) == "no such thing"
        assert not RunFolder.at(config).path.exists()
        assert not RunFolder.at(config).adapters.exists()
        monkeypatch.undo()
        assert train(config, host) is not None

    def test_of_a_run_cannot_be_used_again(self, tiny, host, complaint):
        config = tiny()
        train(config, host)
        before = adapter_files(config)
        text = complaint(train, config, host)
        assert "already contains a run named tiny" in text
        assert "resume" in text
        assert adapter_files(config) == before

    @pytest.mark.parametrize("place", ["tiny.safetensors", "people/tiny.safetensors", "people/TINY.safetensors"])
    def test_of_an_adapter_anywhere_in_the_lora_folder_cannot_be_used(self, tiny, host, complaint, place):
        config = tiny()
        other = Path(config.run.lora_dir) / place
        other.parent.mkdir(parents=True)
        other.write_bytes(b"somebody's")
        assert str(other) in complaint(train, config, host)
        assert other.read_bytes() == b"somebody's"
        assert not RunFolder.at(config).path.exists()

    def test_of_a_folder_that_is_not_empty_cannot_be_used(self, tiny, host, complaint):
        config = tiny()
        adapters(config).mkdir(parents=True)
        (adapters(config) / "notes.txt").write_text("mine")
        assert "is not empty" in complaint(train, config, host)
        assert (adapters(config) / "notes.txt").read_text() == "mine"

    def test_invalid_settings_start_nothing(self, tiny, host, complaint, tmp_path):
        config = tiny(rank=0, learning_rate=2.0)
        text = complaint(train, config, host)
        assert text.startswith("rank: ")
        assert "\nlearning_rate: " in text
        assert not (tmp_path / "runs").exists()


def test_strength_0_is_the_base_bit_for_bit(tiny, host):
    from lib_lora_train.adapters.formats.kohya import load_adapter
    from lib_lora_train.training.adapter_setup import make_adapter
    from lib_lora_train.training.samples import sampling_options

    path = train(tiny(epochs=2, sample_steps=2, train_text_encoder=True), host)
    config = tiny(sample_steps=2, continue_from=str(path))
    base, adapted = (open_denoiser(host.checkpoint, config.model) for _ in range(2))
    adapter, options = make_adapter(adapted, config), sampling_options(config)
    assert load_adapter(path).layers.keys() == {layer.name for layer in adapter.layers}

    def image(denoiser) -> bytes:
        return generate(denoiser, ["a red star"], "", [1], options)[0].tobytes()

    with adapter.strength(0):
        assert image(adapted) == image(base)
    assert image(adapted) != image(base)


def test_nothing_from_describe_is_kept_during_the_lease(checkpoint, tiny):
    described, held = [], []

    class Watched(SharingHost):
        def describe(self):
            given = copy.copy(super().describe())
            described.append(weakref.ref(given))
            return given

        @contextlib.contextmanager
        def lease(self):
            gc.collect()
            held.extend(each() for each in described)
            with super().lease() as given:
                yield given

    train(tiny(), Watched(checkpoint))
    assert described
    assert held == [None] * len(described)
