"""Peers' training code, run from a clone on the embedded world: each module is a program for a process of its own.

Nothing of theirs is here. Each gets the checkpoint's parts from us, and runs without CUDA; all else is the peer's own.
"""
