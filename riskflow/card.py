"""A model card between batch, which makes it, and serving, which shows it: HTML, compressed, beside its bundle."""

from __future__ import annotations

import zlib

from riskflow.errors import BundleRefused

MOST_BYTES = 16 * 1024 * 1024


def packed(html: str) -> bytes:
    return zlib.compress(html.encode(), 6)


def unpacked(raw: bytes) -> str:
    """The page; BundleRefused when that is none, or one of an unlikely size."""
    opened = zlib.decompressobj()
    try:
        html = opened.decompress(raw, MOST_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise BundleRefused(f"corrupted: not a model card ({error})") from None
    if opened.unconsumed_tail or not opened.eof:
        raise BundleRefused(f"a model card that is cut off, or has more than {MOST_BYTES} bytes")
    return html
