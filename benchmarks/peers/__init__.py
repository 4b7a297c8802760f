"""Peers' training code, run from a clone on the embedded checkpoint: each module is a program for its own process.

Their code is not included here. Each program gets the checkpoint's parts from us and runs without CUDA; everything else
is the peer's own.
"""
