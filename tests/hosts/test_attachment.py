"""How a host detects that the tensors it shares are no longer what they were."""

import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.attachment import Attachment, Tensors, fingerprint
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.diffusers_view.views import unet_view


@pytest.fixture
def tensors(miniature):
    """A host's own parameters: copies that a test may write to."""

    def own(part):
        return {name: torch.nn.Parameter(tensor.clone()) for name, tensor in part.items()}

    with StandaloneHost(CheckpointConfig(checkpoint=str(miniature)), torch.device("cpu")).lease() as checkpoint:
        texts = [own(text.weights) for text in checkpoint.text_encoders]
        return Tensors(own(checkpoint.unet), own(checkpoint.vae), texts)


@pytest.fixture
def attachment(tensors, checkpoint):
    return Attachment(checkpoint, tensors)


def first(part):
    return next(iter(part.values()))


def test_the_checkpoint_has_the_hosts_storage_but_not_its_parameter(attachment, tensors):
    name, parameter = next(iter(tensors.unet.items()))
    assert attachment.checkpoint.unet[name].data_ptr() == parameter.data_ptr()
    attachment.checkpoint.unet[name].requires_grad_(False)
    assert parameter.requires_grad


def test_nothing_has_changed_at_first(attachment):
    assert not attachment.moved()
    assert not attachment.modified()
    assert attachment.changed() == []


def test_writing_modifies_and_writing_back_restores(attachment, tensors):
    weight = first(tensors.unet)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    assert attachment.modified()
    assert attachment.changed() == ["UNet"]
    with torch.no_grad():
        weight.copy_(before)
    assert attachment.changed() == []
    attachment.mark_unmodified()
    assert not attachment.modified()


def test_changed_names_each_part(attachment, tensors):
    with torch.no_grad():
        first(tensors.vae).add_(1)
        first(tensors.text_encoders[0]).add_(1)
    assert attachment.changed() == ["VAE", "text encoder"]


def test_a_tensor_with_a_new_storage_has_moved(attachment, tensors):
    weight = first(tensors.unet)
    weight.data = weight.data.clone()
    assert attachment.moved()
    assert attachment.changed() == []


def test_a_changed_flag_counts_as_moved(attachment, tensors):
    first(tensors.unet).requires_grad_(False)
    assert attachment.moved()


def test_views_get_the_tensors_that_are_attached_again(attachment, tensors):
    view = unet_view(attachment.checkpoint)
    for parameter in tensors.unet.values():
        parameter.data = parameter.data.clone()
    attachment.attach(tensors)
    own = {parameter.data_ptr() for parameter in tensors.unet.values()}
    assert all(parameter.data_ptr() in own for parameter in view.parameters())


def test_detach_keeps_no_tensor_alive(attachment, tensors):
    view = unet_view(attachment.checkpoint)
    attachment.detach()
    assert sum(parameter.numel() for parameter in view.parameters()) == 0
    attachment.attach(tensors)
    assert sum(parameter.numel() for parameter in view.parameters()) == sum(p.numel() for p in tensors.unet.values())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_changed_value_of_sixty_four_changes_the_fingerprint_in_every_layout(layout):
    weight = torch.zeros(4, 4, 2, 2).to(memory_format=layout)
    before = fingerprint(Tensors({"a": weight}, {}, ()))
    weight[3, 2, 1, 0] = 1
    assert fingerprint(Tensors({"a": weight}, {}, ())) != before


def test_the_fingerprint_has_values_from_all_of_a_large_tensor():
    weight = torch.zeros(100_000)
    before = fingerprint(Tensors({"a": weight}, {}, ()))
    weight[90_000:] = 1
    assert fingerprint(Tensors({"a": weight}, {}, ())) != before
