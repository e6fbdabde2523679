"""The metadata at the head of a card, in the spelling that the Hub takes."""

from collections.abc import Iterable
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .facts import CardFacts
from .text import hub_languages, is_hub_id, one_line, slug


__all__ = ["HUB_LICENSES", "card_metadata"]

# What the Hub's documentation lists; any other licence is "other" there, with its name beside it.
HUB_LICENSES = frozenset(
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 "
    "lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 "
    "openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib".split()
)


def card_metadata(facts: CardFacts) -> ModelCardData:
    """
    Metadata that the Hub reads; nothing that isn't known gets a field.

    Raises:
        ValueError: For ids of data sets that the Hub can't have.
    """
    base = facts.config.base_config is not None
    sentences = facts.sentence_transformers and not base
    values: dict[str, Any] = {
        "language": hub_languages(facts.languages) or None,
        "library_name": "sentence-transformers" if sentences else "transformers",
        "pipeline_tag": "text-generation" if base else "sentence-similarity" if sentences else "feature-extraction",
        "tags": ["lira", *(["sentence-transformers", "feature-extraction"] if sentences else []), *_task_tags(facts)],
        "datasets": [_dataset(name) for name in facts.datasets] or None,
    }
    if facts.license is not None:
        values |= _license(facts.license)
    # A commit is known of what was loaded from the Hub, and of nothing else.
    backbones = [part.name for part in facts.parts if part.revision and is_hub_id(part.name)]
    if backbones:
        # Without a word the Hub takes several base models for a merge.
        values |= {
            "base_model": list(dict.fromkeys(backbones)),
            "base_model_relation": "finetune" if facts.config.backbones_saved else "adapter",
        }
    results = [result for one in facts.measured for result in one.results()]
    if results:
        values |= {"model_name": one_line(facts.name) or "model", "eval_results": results}
    if facts.emissions:
        values["co2_eq_emissions"] = {
            key: one_line(value) if isinstance(value, str) else value for key, value in facts.emissions.items()
        }
    return ModelCardData(**values)


def _task_tags(facts: CardFacts) -> Iterable[str]:
    tasks = {task.get("task") for run in facts.runs for task in run.get("tasks", [])}
    if "retrieval" in tasks or any(one.task == "text-retrieval" for one in facts.measured):
        yield "cross-lingual-retrieval"


def _license(license: str) -> dict[str, str]:
    name = one_line(license).lower()
    if name in HUB_LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": slug(name).lower()}


def _dataset(name: str) -> str:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"got the data set {one_line(name)!r} ({error}); expected its id on the Hub, such as 'org/name'; a folder "
            "is named by --data"
        ) from error
    return name
