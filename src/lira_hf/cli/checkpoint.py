"""Loading a checkpoint for a command."""

from transformers import AutoModel, AutoProcessor

from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.models.places_lira import loading


__all__ = ["load_checkpoint"]


def load_checkpoint(name: str) -> tuple[LiraModel, LiraProcessor]:
    """
    A LiRA checkpoint, folder or name, with its processor.

    Raises:
        ValueError: For a checkpoint of another model.
    """
    with loading(name):
        model = AutoModel.from_pretrained(name)
    if not isinstance(model, LiraModel):
        raise ValueError(
            f"{name} holds a {type(model).__name__}; expected a LiRA checkpoint; train one with `lira quickstart` or "
            "`lira train`, or name its folder"
        )
    return model, AutoProcessor.from_pretrained(name)
