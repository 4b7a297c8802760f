"""devices.py: where the WebUI computes."""

import torch

cpu = device = torch.device("cpu")
fp8 = False


def torch_gc():
    pass
