"""Model cards written from the facts of a run: nothing is claimed that is not known of it."""

from .facts import CardFacts, DataFacts, Giver, Part, checkpoint_facts, config_facts
from .metadata import HUB_LICENSES, card_metadata
from .reports import Measurement, format_interval, read_report
from .text import code, hub_languages, markdown
from .writing import TEMPLATE, CardError, basic_model_card, make_model_card, write_model_card


__all__ = [
    "HUB_LICENSES",
    "TEMPLATE",
    "CardError",
    "CardFacts",
    "DataFacts",
    "Giver",
    "Measurement",
    "Part",
    "basic_model_card",
    "card_metadata",
    "checkpoint_facts",
    "code",
    "config_facts",
    "format_interval",
    "hub_languages",
    "make_model_card",
    "markdown",
    "read_report",
    "write_model_card",
]
