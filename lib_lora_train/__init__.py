"""Trains LoRA adapters on the checkpoint that a WebUI has loaded."""

__version__ = "0.2.0"
