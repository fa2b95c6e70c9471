"""One file per architecture; importing this room fills the registry."""

from oliveira.models import gpt

__all__ = ["gpt"]
