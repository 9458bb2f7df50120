"""Puts gates into an existing Hugging Face model, takes them out again, and saves them."""

from saa_core.attach.attach import attach, detach
from saa_core.attach.save import save_gates

__all__ = ["attach", "detach", "save_gates"]
