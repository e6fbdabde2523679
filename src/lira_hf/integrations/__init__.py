"""Where LiRA meets the ecosystem: the Hub, and checkpoints that carry their code."""

from .hub import push_to_hub, save_checkpoint
from .remote_code import export_remote_code


__all__ = ["export_remote_code", "push_to_hub", "save_checkpoint"]
