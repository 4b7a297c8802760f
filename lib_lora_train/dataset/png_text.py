"""Removes the texts from a PNG. Pillow refuses a picture with much text, and ComfyUI stores whole workflows in them."""

from __future__ import annotations

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt", b"iCCP"))
"""Kinds of chunks that Pillow limits in size. Color profiles, which are not applied, are among them."""
XMP = b"XML:com.adobe.xmp\x00\x00"
"""Start of an uncompressed XMP text, which may hold the picture's orientation, so it is kept."""


def without_text(png: bytes) -> bytes:
    """`png` without its texts and color profile. What follows a chunk that is cut short is kept as it is."""
    parts, position = [SIGNATURE], len(SIGNATURE)
    while position + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length  # 8 bytes of header, the content, 4 bytes of checksum
        if kind not in TEXTS or png.startswith(XMP, position + 8):
            parts.append(png[position:end])
        position = end
    parts.append(png[position:])
    return b"".join(parts)
