"""The checkpoint's own small tokenizer in CLIP's format, and the config of its text encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from lib_lora_train.embedded.synthetic import ALL_SHAPES, BACKGROUNDS, COLORS

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77

_COMMON = """
    a an on the of in with and or to at by for is it no not one two three
    photo picture image drawing painting sketch style art person man woman face dog cat house tree flower car
    pink brown cyan silver gold dark light bright pale colour color plain outline outlined filled thin thick
    small large big tiny huge medium round sharp soft ring moon diamond arrow oval line background shape
"""

WORDS = (*COLORS, *BACKGROUNDS, *ALL_SHAPES, *_COMMON.split())
"""Words that are one token each. All others become letters, as rare words do in CLIP."""


def write_tokenizer(folder: Path) -> None:
    """Writes the five small files that `CLIPTokenizer` and `CLIPTextConfig` read."""
    merges = learn_merges(WORDS)
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    numbers = {token: number for number, token in enumerate(tokens)}
    write_tokenizer_files(folder, numbers, merges, END, text_config(len(tokens)))


def write_tokenizer_files(
    folder: Path, numbers: dict[str, int], merges: list[tuple[str, str]], pad: str, config: dict
) -> None:
    """Writes a tokenizer with these token ids and merges, and the config of its text encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    write_json(folder / "vocab.json", numbers)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "config.json", config)


def text_config(vocabulary: int, layers: int = 2) -> dict:
    """The config of a small CLIP text encoder. The end token has the highest id: CLIP pools where the id is largest."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def byte_letters() -> list[str]:
    """CLIP's 256 letters: each byte as a printable character, printable bytes first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + index) for index in range(len(others)))]


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token.

    A merge is applied only where no earlier one can be, so later merges do not split earlier words.
    """
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        while len(parts := _merged(word, merges)) > 1:
            merges.append((parts[0], parts[1]))
    return merges


def _merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """A word's tokens: byte pair encoding, the earliest possible merge first."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = [*word[:-1], word[-1] + "</w>"]
    while found := [pair for pair in pairwise(parts) if pair in ranks]:
        best = min(found, key=ranks.__getitem__)
        joined: list[str] = []
        for part in parts:
            if joined and (joined[-1], part) == best:
                joined[-1] += part
            else:
                joined.append(part)
        parts = joined
    return parts


def write_json(path: Path, content: dict) -> None:
    """Writes JSON, with the same bytes on every system."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
