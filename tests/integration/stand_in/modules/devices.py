"""devices.py: the WebUI's device."""

import torch

cpu = device = torch.device("cpu")
fp8 = False


def torch_gc():
    pass
