"""The host in Forge, on a stand-in that loads, moves and patches a model as Forge does."""

import copy
import sys
import types
from contextlib import contextmanager
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.hosts.webui import common
from lib_lora_train.hosts.webui.forge import Forge
from lib_lora_train.hosts.webui.forge_host import ForgeHost
from lib_lora_train.hosts.webui.forge_model import ordinary
from lib_lora_train.hosts.webui.loaded_checkpoint import webui_precision
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.diffusers_view.names import text_weights
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view
from tests.families import write_family
from tests.integration.stand_in.modules.call_queue import FIFOLock

CPU, OTHER_DEVICE = torch.device("cpu"), torch.device("cpu", 0)
"""Two devices that differ for a test, on a machine without a GPU."""

ENCODERS = {
    "cond_stage_model.transformer.": "clip_l",
    "cond_stage_model.model.": "clip_h",
    "conditioner.embedders.0.transformer.": "clip_l",
    "conditioner.embedders.1.model.": "clip_g",
}
"""Prefix of a text encoder in a file -> Forge's name for it."""


class Tree(nn.Module):
    """Nested modules with `tensors` under their names."""

    def __init__(self, tensors):
        super().__init__()
        children = {}
        for name, tensor in tensors.items():
            first, dot, rest = name.partition(".")
            if dot:
                children.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        for name, inner in children.items():
            self.add_module(name, Tree(inner))

    def __getitem__(self, index):
        return getattr(self, str(index))


class LoraLoader:
    """backend/patcher/lora.py: merges out of place and keeps the originals."""

    def __init__(self, model):
        self.model, self.backup, self.loaded_hash = model, {}, str([])

    @torch.inference_mode()
    def refresh(self, patches):
        if str(list(patches)) == self.loaded_hash:
            return
        for name, weight in self.backup.items():
            put(self.model, name, weight)
        self.backup = {}
        for name in patches:
            self.backup[name] = self.model.get_parameter(name)
            put(self.model, name, nn.Parameter(self.backup[name] + 1, requires_grad=False))
        self.loaded_hash = str(list(patches))


def put(module, name, weight):
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, weight)


class Patcher:
    """backend/patcher/base.py: a model with the LoRAs of one image."""

    def __init__(self, model, offload_device=CPU, patches=()):
        self.model, self.patches = model, patches
        self.load_device, self.offload_device = CPU, offload_device
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader = model.lora_loader

    def with_lora(self, *names):
        return Patcher(self.model, self.offload_device, names)

    def is_clone(self, other):
        return other.model is self.model

    def refresh_loras(self):
        self.lora_loader.refresh(self.patches)


class MemoryManagement:
    """backend/memory_management.py. A move makes new storages, as between main memory and a GPU."""

    __file__ = "memory_management.py"

    def __init__(self):
        self.current_loaded_models = []

    def get_torch_device(self):
        return CPU

    def load_models_gpu(self, patchers):
        for patcher in patchers:
            if any(entry.model is patcher for entry in self.current_loaded_models):
                continue
            self.current_loaded_models[:] = [e for e in self.current_loaded_models if not patcher.is_clone(e.model)]
            move(patcher)
            patcher.refresh_loras()
            self.current_loaded_models.insert(
                0, types.SimpleNamespace(model=patcher, model_unload=lambda p=patcher: move(p))
            )

    def unload_all_models(self):
        while self.current_loaded_models:
            self.current_loaded_models.pop().model_unload()


def move(patcher):
    if patcher.load_device.index != patcher.offload_device.index:
        with torch.inference_mode():
            for parameter in patcher.model.parameters():
                parameter.data = parameter.data.clone()


class Objects(types.SimpleNamespace):
    def shallow_copy(self):
        return copy.copy(self)


class Model(types.SimpleNamespace):
    __hash__ = object.__hash__


class FakeForge:
    """sd_models.py: a checkpoint is chosen at once, and loaded when it is needed first."""

    def __init__(self, offload_device):
        self.offload_device = offload_device
        self.storage, self.computation = torch.float32, torch.float32
        self.memory = MemoryManagement()
        self.model_data = types.SimpleNamespace(sd_model=object(), forge_loading_parameters={}, forge_hash="")
        self.breaks = self.other_vae = False
        self.prediction = "epsilon"
        self.inference = True
        """Whether weights are made in inference mode, as Forge does and reForge does not."""

    def choose(self, file):
        info = types.SimpleNamespace(filename=str(file), sha256="", hash="")
        self.model_data.forge_loading_parameters = {"checkpoint_info": info}

    def forge_model_reload(self):
        with torch.inference_mode(self.inference):
            return self._reload()

    def _reload(self):
        data = self.model_data
        now = str(data.forge_loading_parameters)
        if data.forge_hash == now:
            return data.sd_model, False
        data.sd_model = None
        self.memory.unload_all_models()
        if self.breaks:
            raise ValueError("Failed to recognize model type!")
        data.sd_model = self.load(data.forge_loading_parameters["checkpoint_info"])
        data.forge_hash = now
        return data.sd_model, True

    def load(self, info):
        weights = {name: tensor.to(self.storage) for name, tensor in load_file(info.filename).items()}
        folder = info.filename.removesuffix(".safetensors")

        def part(prefix):
            return Tree({n.removeprefix(prefix): t.clone() for n, t in weights.items() if n.startswith(prefix)})

        unet = nn.Module()
        unet.diffusion_model = part("model.diffusion_model.")
        unet.storage_dtype, unet.computation_dtype = self.storage, self.computation
        unet.predictor = types.SimpleNamespace(prediction_type=self.prediction)
        encoder, tokenizer = nn.Module(), types.SimpleNamespace()
        for prefix, name in ENCODERS.items():
            if any(key.startswith(prefix) for key in weights):
                clip = nn.Module()
                text = text_weights(dict(part(prefix).named_parameters()))
                left_out = (
                    "text_model.encoder.layers.2." if name == "clip_h" else "none"
                )  # as its config for SD 2 has it
                clip.transformer = Tree({key: tensor for key, tensor in text.items() if not key.startswith(left_out)})
                clip.transformer.config = CLIPTextConfig.from_pretrained(folder) if name == "clip_l" else None
                encoder.add_module(name, clip)
                setattr(tokenizer, name, CLIPTokenizer.from_pretrained(folder))
        vae = part("first_stage_model.")
        if self.other_vae:
            vae.get_parameter("quant_conv.bias").add_(1)
        objects = Objects(
            unet=Patcher(unet, self.offload_device),
            clip=types.SimpleNamespace(
                cond_stage_model=encoder,
                patcher=Patcher(encoder, self.offload_device),
                tokenizer=tokenizer,
            ),
            vae=types.SimpleNamespace(first_stage_model=vae, patcher=Patcher(vae, self.offload_device)),
        )
        return Model(
            sd_checkpoint_info=info,
            model_config=types.SimpleNamespace(ztsnr="ztsnr" in weights),
            forge_objects_original=objects,
            forge_objects_after_applying_lora=objects,
            forge_objects=objects,
            current_lora_hash=str([]),
        )


@pytest.fixture
def make_webui(monkeypatch, miniature):
    """make_webui(offload_device): Forge with the miniature chosen, as the WebUI's `modules`."""

    def make(offload_device=CPU):
        webui = FakeForge(offload_device)
        call_queue = types.SimpleNamespace(queue_lock=FIFOLock())
        monkeypatch.setattr(common, "RETRY_SECONDS", 0.001)
        shared_options = types.SimpleNamespace(opts=types.SimpleNamespace(sd_noise_schedule="Default"))
        modules = types.SimpleNamespace(sd_models=webui, call_queue=call_queue, shared=shared_options)
        monkeypatch.setitem(sys.modules, "modules", modules)
        monkeypatch.setitem(sys.modules, "modules.shared", shared_options)
        monkeypatch.setitem(sys.modules, "modules.call_queue", call_queue)
        monkeypatch.setitem(sys.modules, "modules.sd_models", webui)
        monkeypatch.setitem(sys.modules, "backend", types.SimpleNamespace(memory_management=webui.memory))
        webui.choose(miniature)
        return webui

    return make


@pytest.fixture
def webui(make_webui):
    return make_webui()


@pytest.fixture
def host(webui):
    return ForgeHost(CheckpointConfig(), Forge())


def originals(webui):
    return webui.forge_model_reload()[0].forge_objects_original


def unet_addresses(webui):
    return {p.data_ptr() for p in originals(webui).unet.model.diffusion_model.parameters()}


def shared_addresses(checkpoint):
    return {tensor.data_ptr() for tensor in checkpoint.unet.values()}


@contextmanager
def image_generated(webui, *lora):
    """An image was generated with a LoRA on the weights of these names, which stays merged.

    As in Forge (sd_forge_lora/networks.py), the parts of the image before are used again if it had the same LoRA.
    """
    with sys.modules["modules"].call_queue.queue_lock:
        model, _ = webui.forge_model_reload()
        if model.current_lora_hash != str(list(lora)):
            model.current_lora_hash = str(list(lora))
            parts = model.forge_objects_original.shallow_copy()
            parts.unet, parts.clip = with_lora(parts.unet, lora), copy.copy(parts.clip)
            parts.clip.patcher = with_lora(parts.clip.patcher, lora)
            model.forge_objects_after_applying_lora = parts
        used = model.forge_objects_after_applying_lora
        webui.memory.load_models_gpu([used.clip.patcher, used.unet])
        yield model


def with_lora(patcher, names):
    """`patcher` with those of the LoRA's weights that are its own."""
    own = [name for name in names if name in dict(patcher.model.named_parameters())]
    return patcher.with_lora(*own) if own else patcher


def other_file(miniature, tmp_path):
    """The miniature as another file, with one weight changed."""
    copytree(miniature.with_suffix(""), tmp_path / "other")
    weights = load_file(miniature)
    weights["model.diffusion_model.out.2.bias"] += 1
    save_file(weights, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def test_weights_made_in_inference_mode_become_ordinary_tensors_on_the_same_memory():
    with torch.inference_mode():
        weight = torch.arange(12.0).reshape(3, 4).T[1:]
    tensor = ordinary(weight)
    assert weight.is_inference()
    assert not tensor.is_inference()
    assert tensor.data_ptr() == weight.data_ptr()
    assert tensor.stride() == weight.stride()
    assert torch.equal(tensor, weight)


def test_a_lease_loads_the_chosen_checkpoint_and_copies_nothing(webui, host, miniature):
    with host.lease() as checkpoint:
        assert shared_addresses(checkpoint) == unet_addresses(webui)
        assert checkpoint.name == miniature.stem


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_are_shared_whole_and_equal_their_file(webui, host, tmp_path, family):
    file = write_family(tmp_path, family)
    webui.choose(file)
    with (
        host.lease() as checkpoint,
        host.gpu_slot(),
        StandaloneHost(CheckpointConfig(str(file)), CPU).lease() as from_file,
    ):
        assert checkpoint.family is from_file.family
        assert shared_addresses(checkpoint) == unet_addresses(webui)
        ours, theirs = (
            DiffusersDenoiser.open(each, CheckpointConfig()).text.encode(["a red circle"])
            for each in (checkpoint, from_file)
        )
    assert torch.allclose(ours.context, theirs.context, atol=1e-5)
    assert (ours.pooled is None) == (theirs.pooled is None) == (family == "sd2")
    assert ours.pooled is None or torch.allclose(ours.pooled, theirs.pooled, atol=1e-5)


def test_v_prediction_and_zero_terminal_snr_are_the_webuis(webui, host, tmp_path):
    webui.choose(write_family(tmp_path, "sdxl", ("v_pred", "ztsnr")))
    webui.prediction = "v_prediction"
    with host.lease() as checkpoint:
        assert (checkpoint.prediction, checkpoint.zero_terminal_snr) == ("v", True)


def test_the_noise_schedule_set_in_the_webui_counts_for_v_prediction_only(webui, host):
    sys.modules["modules.shared"].opts.sd_noise_schedule = "Zero Terminal SNR"
    for prediction, zero in (("epsilon", False), ("v_prediction", True)):
        webui.prediction = prediction
        webui.model_data.forge_hash = ""  # so that it is loaded again
        with host.lease() as checkpoint:
            assert checkpoint.zero_terminal_snr is zero


def test_a_model_that_predicts_neither_noise_nor_v_is_refused(webui, host, complaint):
    webui.prediction = "edm"
    assert "neither noise nor v" in complaint(host.lease().__enter__)


def test_an_inpainting_checkpoint_is_refused_by_its_kind(webui, host, complaint, miniature, tmp_path):
    file = other_file(miniature, tmp_path)
    weights = load_file(file)
    first = weights["model.diffusion_model.input_blocks.0.0.weight"]
    weights["model.diffusion_model.input_blocks.0.0.weight"] = first.repeat(1, 3, 1, 1)[:, :9].contiguous()
    save_file(weights, file)
    webui.choose(file)
    assert "inpainting" in complaint(host.lease().__enter__)


def test_gradients_flow_through_the_shared_weights(webui, host):
    with host.lease() as checkpoint, host.gpu_slot():
        unet = unet_view(checkpoint)
        adapter = torch.zeros(1, 4, 8, 8, requires_grad=True)
        text = torch.randn(1, 4, checkpoint.unet["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape[1])
        unet(adapter, torch.tensor([5]), text).sample.sum().backward()
    assert adapter.grad.abs().sum() > 0


def test_a_plan_needs_no_checkpoint_loaded(webui, host):
    checkpoint = host.describe()
    assert host.internals.loaded() is None
    webui.forge_model_reload()
    assert {n: t.shape for n, t in checkpoint.unet.items()} == {n: t.shape for n, t in host.describe().unet.items()}


def test_a_plan_is_for_the_chosen_checkpoint_even_while_the_one_before_is_loaded(webui, host, miniature, tmp_path):
    webui.forge_model_reload()
    webui.choose(other_file(miniature, tmp_path))
    assert host.describe().name == "other"


def test_the_checkpoint_is_loaded_under_the_webuis_lock_which_is_free_between_slots(webui, host, monkeypatch):
    lock, load, held = sys.modules["modules"].call_queue.queue_lock, webui.load, []
    monkeypatch.setattr(webui, "load", lambda info: held.append(lock._lock.locked()) or load(info))
    with host.lease():
        assert held == [True]
        assert not lock._lock.locked()
        with host.gpu_slot():
            assert lock._lock.locked()
        assert not lock._lock.locked()


def test_after_an_error_in_the_run_no_tensor_is_held(webui, host):
    with pytest.raises(ZeroDivisionError), host.lease() as checkpoint:
        _ = len(checkpoint.unet) / 0
    assert not checkpoint.unet


def test_a_merged_lora_is_removed_and_can_be_merged_again(webui, host):
    name = "diffusion_model.out.2.weight"
    with image_generated(webui) as model:
        plain = model.forge_objects_original.unet.model.get_parameter(name).data_ptr()
    with image_generated(webui, name) as model:
        merged = model.forge_objects_original.unet.model.get_parameter(name).data_ptr()
    assert merged != plain
    with host.lease() as checkpoint, host.gpu_slot():
        assert checkpoint.unet["out.2.weight"].data_ptr() == plain
        assert model.current_lora_hash == str([])
    with image_generated(webui, name) as model:
        assert model.forge_objects_original.unet.model.get_parameter(name).data_ptr() != plain


def test_a_lora_merged_into_the_text_encoder_is_removed_too(webui, host):
    name = "text_model.encoder.layers.0.mlp.fc1.bias"
    with image_generated(webui) as model:
        plain = model.forge_objects_original.clip.cond_stage_model.clip_l.transformer.get_parameter(name).data_ptr()
    with image_generated(webui, f"clip_l.transformer.{name}") as model:
        merged = model.forge_objects_original.clip.cond_stage_model.clip_l.transformer.get_parameter(name).data_ptr()
    assert merged != plain
    with host.lease() as checkpoint:
        assert checkpoint.text_encoders[0].weights[name].data_ptr() == plain


def test_an_image_without_a_lora_after_the_run_is_without_the_one_that_was_merged_before_it(webui, host):
    name = "diffusion_model.out.2.weight"
    with image_generated(webui) as model:
        plain = model.forge_objects_original.unet.model.get_parameter(name).data_ptr()
    with image_generated(webui, name):
        pass
    with host.lease(), host.gpu_slot():
        pass
    with image_generated(webui) as model:
        assert model.forge_objects_original.unet.model.get_parameter(name).data_ptr() == plain


def test_a_lora_that_is_merged_when_the_run_ends_is_no_change_of_the_weights(webui, host):
    with host.lease():
        with host.gpu_slot():
            pass
        with image_generated(webui, "diffusion_model.out.2.weight"):
            pass


def test_a_lora_merged_between_two_slots_is_removed_for_the_next(webui, host):
    name = "diffusion_model.out.2.weight"
    with host.lease() as checkpoint:
        with host.gpu_slot():
            before = checkpoint.unet["out.2.weight"].clone()
        with image_generated(webui, name):
            pass
        with host.gpu_slot():
            assert torch.equal(checkpoint.unet["out.2.weight"], before)


def test_while_another_checkpoint_is_chosen_the_slot_waits_and_holds_no_tensor(webui, host, miniature, tmp_path):
    reasons = []

    def on_wait(reason):
        reasons.append(reason)
        assert not checkpoint.unet
        webui.choose(miniature)

    with host.lease() as checkpoint:
        webui.choose(other_file(miniature, tmp_path))
        with host.gpu_slot(on_wait):
            assert shared_addresses(checkpoint) == unet_addresses(webui)
    assert "other" in reasons[0]
    assert miniature.stem in reasons[0]


def test_a_checkpoint_that_was_loaded_again_is_attached_again(webui, host, miniature, tmp_path):
    with host.lease() as checkpoint:
        first = shared_addresses(checkpoint)
        webui.choose(other_file(miniature, tmp_path))
        webui.forge_model_reload()
        webui.choose(miniature)
        with host.gpu_slot():
            assert shared_addresses(checkpoint) == unet_addresses(webui) != first


def test_the_slot_waits_while_another_vae_is_loaded(webui, host):
    """In Forge, "VAE / Text Encoder" at the top of the page loads the whole model again."""
    reasons = []

    def on_wait(reason):
        reasons.append(reason)
        if len(reasons) == 3:
            webui.other_vae = False
            webui.model_data.forge_hash = ""

    with host.lease() as checkpoint:
        webui.other_vae = True
        webui.model_data.forge_hash = ""
        with host.gpu_slot(on_wait):
            assert shared_addresses(checkpoint) == unet_addresses(webui)
    assert len(reasons) == 3
    assert all("VAE" in reason for reason in reasons)


def test_another_vae_written_into_the_same_tensors_is_detected(webui, host):
    """As in reForge, where weights are ordinary tensors."""
    webui.inference = False
    reasons = []
    with host.lease():
        with host.gpu_slot():
            pass
        weight = originals(webui).vae.first_stage_model.get_parameter("quant_conv.bias")
        own = weight.detach().clone()
        with torch.no_grad():
            weight += 1
        with host.gpu_slot(lambda reason: (reasons.append(reason), weight.data.copy_(own))):
            assert "VAE" in reasons[0]


def test_parts_that_moved_are_attached_again(make_webui):
    webui = make_webui(offload_device=OTHER_DEVICE)
    host = ForgeHost(CheckpointConfig(), Forge())
    with host.lease() as checkpoint:
        first = shared_addresses(checkpoint)
        webui.memory.unload_all_models()
        with host.gpu_slot():
            assert shared_addresses(checkpoint) == unet_addresses(webui) != first


def test_between_slots_no_tensor_is_held_that_the_webui_may_move(make_webui):
    make_webui(offload_device=OTHER_DEVICE)
    host = ForgeHost(CheckpointConfig(), Forge())
    with host.lease() as checkpoint:
        with host.gpu_slot():
            unet = unet_view(checkpoint)
            assert sum(p.numel() for p in unet.parameters()) > 0
        assert not checkpoint.unet
        assert sum(p.numel() for p in unet.parameters()) == 0
        with host.gpu_slot():
            assert sum(p.numel() for p in unet.parameters()) > 0


def test_a_text_encoder_that_is_on_the_device_for_the_whole_run_is_not_attached_again(make_webui):
    webui = make_webui(offload_device=OTHER_DEVICE)
    webui.storage = torch.float16
    host = ForgeHost(CheckpointConfig(), Forge())
    with host.lease() as checkpoint:
        with host.gpu_slot():
            encoder = text_encoder_view(checkpoint)
            run = checkpoint.on_device(encoder)
            run.__enter__()
            before = [p.detach().clone() for p in encoder.parameters()]
        with host.gpu_slot():
            assert all(p.dtype == torch.float32 for p in encoder.parameters())
            assert all(torch.equal(p, old) for p, old in zip(encoder.parameters(), before, strict=True))
        run.__exit__(None, None, None)


def test_embeddings_converted_to_float32_at_the_first_image_count_as_unchanged(webui, host):
    webui.storage = torch.float16
    with host.lease() as checkpoint:
        embeddings = originals(webui).clip.cond_stage_model.clip_l.transformer.text_model.embeddings
        with torch.inference_mode():
            embeddings.to(torch.float32)
        with host.gpu_slot():
            assert (
                checkpoint.text_encoders[0].weights["text_model.embeddings.token_embedding.weight"].dtype
                == torch.float32
            )


def test_a_run_that_allows_no_image_generation_has_the_device_for_its_unet(webui):
    with image_generated(webui):
        pass
    host = ForgeHost(CheckpointConfig(allow_image_generation=False), Forge())
    with host.lease():
        assert [entry.model for entry in webui.memory.current_loaded_models] == [originals(webui).unet]


@pytest.mark.parametrize("storage", ["nf4", "gguf", torch.float8_e4m3fn])
def test_weights_in_few_bits_are_refused_with_the_setting_to_change(webui, host, complaint, storage):
    originals(webui).unet.model.storage_dtype = storage
    message = complaint(host.lease().__enter__)
    assert str(storage).removeprefix("torch.") in message
    assert "Diffusion in Low Bits" in message
    assert complaint(host.describe) == message


def test_a_checkpoint_that_cannot_be_loaded_is_named_and_the_next_one_loads(webui, host, complaint):
    webui.breaks = True
    assert "Failed to recognize" in complaint(host.lease().__enter__)
    webui.breaks = False
    with host.lease() as checkpoint:
        assert checkpoint.unet


def test_after_a_failure_the_previous_checkpoint_loads_again(webui, host, miniature, tmp_path, complaint):
    webui.forge_model_reload()
    former = webui.model_data.forge_loading_parameters
    webui.choose(other_file(miniature, tmp_path))
    webui.breaks = True
    complaint(host.lease().__enter__)
    webui.breaks = False
    webui.model_data.forge_loading_parameters = former
    with host.lease() as checkpoint:
        assert checkpoint.name == miniature.stem


def test_without_a_chosen_checkpoint_there_is_an_error(webui, host, complaint):
    webui.model_data.forge_loading_parameters = {"checkpoint_info": None}
    assert "No checkpoint is chosen" in complaint(host.describe)
    assert "No checkpoint is chosen" in complaint(host.lease().__enter__)


def test_weights_that_changed_are_an_error_at_the_end(webui, host):
    with pytest.raises(UserError, match="UNet"), host.lease(), torch.inference_mode():
        originals(webui).unet.model.diffusion_model.get_parameter("out.2.bias").add_(1)


@pytest.mark.parametrize(
    ("storage", "computation", "device", "expected"),
    [
        (torch.float32, torch.float32, "cpu", torch.float32),
        (torch.float16, torch.float16, "cuda", torch.float16),
        (torch.float16, torch.bfloat16, "cuda", torch.bfloat16),
        (torch.float16, torch.float32, "cpu", torch.bfloat16),
        (torch.float16, torch.float32, "cuda", torch.float16),
    ],
)
def test_precision_is_the_webuis_but_never_full_for_half_precision_weights(storage, computation, device, expected):
    assert webui_precision("auto", storage, computation, torch.device(device), "--all-in-fp32") == expected


def test_full_precision_for_half_precision_weights_is_refused(complaint):
    message = complaint(webui_precision, "fp32", torch.float16, torch.float16, torch.device("cuda"), "--all-in-fp32")
    assert "--all-in-fp32" in message
