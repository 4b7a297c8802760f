"""Text features for a task: encoded anew while the text encoders are trained, else encoded once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import nn

from lib_lora_train.model.denoiser import Conditioning, Denoiser
from lib_lora_train.model.text_cache import TextCache


@dataclass
class TextSource:
    """Encodes captions, with gradients while any of `trained` asks for them."""

    denoiser: Denoiser
    trained: Sequence[nn.Parameter]
    """What is trained in the text encoders, or is part of their input."""
    cache: TextCache

    @property
    def is_trained(self) -> bool:
        """Parameters whose training has ended no longer ask for gradients."""
        return any(parameter.requires_grad for parameter in self.trained)

    def encode(self, captions: Sequence[str | None]) -> Conditioning:
        """Of each caption. None is no text at all, which differs from an empty text for SDXL."""
        texts = [caption or "" for caption in captions]
        conditioning = self.denoiser.encode_text(texts) if self.is_trained else self.cache.encode(texts)
        return conditioning.without_text([caption is None for caption in captions])

    def needs_encoder(self, captions: Sequence[str], varied: bool) -> bool:
        """Whether the encoders are needed during training, because `captions`, encoded once, are not enough."""
        return self.is_trained or varied or len({"", *captions}) > self.cache.capacity

    def encode_all(self, captions: Sequence[str]) -> Generator[tuple[int, int], None, None]:
        """Encodes each distinct caption into the cache. Yields (done, total) after each."""
        distinct = list(dict.fromkeys(captions))
        for done, caption in enumerate(distinct, start=1):
            self.cache.encode([caption])
            yield done, len(distinct)
        self.cache.encode_padding()
