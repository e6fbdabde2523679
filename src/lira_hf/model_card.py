"""Model cards written from the facts of a run: nothing is claimed that was not measured in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lira_hf.models import LiraConfig


__all__ = ["ModelFacts", "basic_model_card", "format_interval", "write_model_card"]

_TEMPLATES = Path(__file__).parent / "templates"
_TEMPLATE = _TEMPLATES / "model_card.md"


@dataclass(frozen=True)
class ModelFacts:
    """
    Args:
        name (`str`): Of the model.
        languages (`list[str]`): Tags it was trained on.
        encoder, anchor (`str`): The backbones g and h.
        data (`str`): What it was trained on, with licences.
        candidates (`str`): Where its candidate translations came from.
        critic (`str`): Who judged them.
        report (`dict`): As in report.json.
        licence (`str`, *optional*, defaults to `"apache-2.0"`): Of the weights.
    """

    name: str
    languages: list[str]
    encoder: str
    anchor: str
    data: str
    candidates: str
    critic: str
    report: dict[str, Any]
    licence: str = "apache-2.0"


def basic_model_card(config: LiraConfig, name: str) -> ModelCard:
    """
    A card of what the configuration knows, for a model without a report; it states no figure and no licence.

    Args:
        config ([`LiraConfig`]): Of the model.
        name (`str`): Of the model.
    """
    info = config.backbone_info or {}
    kinds = {"Base LM": "base", "Multilingual encoder": "encoder", "English encoder": "anchor"}
    parts = []
    for title, part in kinds.items():
        found = getattr(config, f"{part}_config")
        if found is not None:
            known = Path(info.get(part, {}).get("name") or "").name
            parts.append((title, f"{known} ({found.model_type})" if known else found.model_type))
    if config.anchor_config is None:
        parts.append(("English encoder", "the multilingual one"))
    base = config.base_config is not None
    data = ModelCardData(
        language=list(dict.fromkeys([*config.languages, *config.anchor_languages])),
        library_name="transformers",
        pipeline_tag="text-generation" if base else "feature-extraction",
        tags=["lira"],
        model_name=name,
    )
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATES / "basic_card.md"),
        model_name=name,
        base=base,
        auto="AutoModelForCausalLM" if base else "AutoModel",
        parts=parts,
        languages=", ".join(config.languages) or "none",
    )


def write_model_card(facts: ModelFacts, folder: Path) -> Path:
    """
    Writes README.md with metadata that the Hub reads.

    Args:
        facts ([`ModelFacts`]): What the card says.
        folder (`Path`): The checkpoint.

    Returns:
        `Path`: The card.
    """
    report = facts.report
    ours = report["systems"]["LiRA"]["ndcg@10"]
    results = [
        EvalResult(
            task_type="text-retrieval",
            dataset_type="lira-quickstart",
            dataset_name=f"{facts.name} test, {tag}",
            dataset_config=tag,  # the Hub takes results of one configuration for one result
            dataset_split="test",
            metric_type="ndcg_at_10",
            metric_value=round(value, 4),
        )
        for tag, value in ours.items()
    ]
    data = ModelCardData(
        language=[tag for tag in [*facts.languages, "en"]],
        license=facts.licence,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["lira", "cross-lingual-retrieval", "sentence-similarity"],
        model_name=facts.name,
        eval_results=results,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=facts.name,
        encoder=facts.encoder,
        anchor=facts.anchor,
        data=facts.data,
        candidates=facts.candidates,
        critic=facts.critic,
        sizes=report["sizes"],
        seeds=len(report["settings"]["seeds"]),
        table=_markdown(report),
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _markdown(report: dict[str, Any]) -> str:
    tags = [*(tag for tag in report["systems"]["LiRA"]["ndcg@10"] if tag != "mean"), "mean"]
    lines = [f"| | {' | '.join(tags)} | LiRA minus it |", f"|---|{'---:|' * (len(tags) + 1)}"]
    for name, metrics in report["systems"].items():
        cells = [f"{100 * metrics['ndcg@10'][tag]:.1f}" for tag in tags]
        gain = report["differences"].get(name)
        cells.append("" if gain is None else format_interval(gain["ndcg@10"]["mean"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_interval(gain: dict[str, float]) -> str:
    """A difference and its interval in points: "+2.9 [2.1, 3.6]"."""
    return f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
