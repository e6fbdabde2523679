"""The demo's panels as HTML. Jinja escapes every text, so that a document can't bring markup or scripts of its own."""

from collections.abc import Sequence
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from lira_hf.data import language_name

from .demo import Answers, LiraDemo, Shown


__all__ = ["STYLE", "render_answers", "render_error", "render_heading", "render_shown"]

# What a reader has to know of each system, by its name in `Explanation.results`.
_MEANINGS = {
    "g alone": "the multilingual encoder's vectors",
    "translate, then h": "the critic's best candidate, or the first, in the English encoder",
    "concat, untrained": "both vectors joined, without LiRA's training",
    "LiRA": "both roads, anchored, weighed and fused",
    "multilingual road alone": "LiRA without any translation",
    "English road alone": "LiRA with the candidates only",
}

STYLE = """
.lira { --lira-quiet: color-mix(in srgb, var(--body-text-color) 72%, transparent);
  color: var(--body-text-color); font-size: 15px; line-height: 1.5; }
.lira h3 { margin: 26px 0 8px; font-size: 17px; font-weight: 600; }
.lira p { margin: 4px 0; }
.lira .asked { font-size: 19px; }
.lira h1 { margin: 0; font-size: 22px; font-weight: 600; }
.lira .small { color: var(--lira-quiet); font-size: 13px; }
.lira .note { border-inline-start: 4px solid var(--color-accent); padding: 6px 12px; margin: 8px 0; }
.lira .error { border-inline-start: 4px solid #dc2626; padding: 8px 12px; margin: 8px 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.lira .wide { overflow-x: auto; }
.lira table { border-collapse: collapse; width: 100%; min-width: 620px; }
.lira table, .lira tr, .lira th, .lira td { border: 0 !important; }
.lira th, .lira td { text-align: left; padding: 7px 10px; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.lira th { font-size: 13px; font-weight: 600; color: var(--lira-quiet); }
.lira td.number, .lira th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.lira td.text { width: 45%; overflow-wrap: anywhere; }
.lira tr.chosen td { background: color-mix(in srgb, var(--color-accent) 12%, transparent); }
.lira .bar { display: flex; height: 22px; border-radius: 5px; overflow: hidden; font-size: 12px; margin: 8px 0;
  background: var(--border-color-primary); }
.lira .bar span { display: block; padding: 2px 8px; white-space: nowrap; overflow: hidden; color: #fff; }
.lira .source { background: #1d4ed8; }
.lira .anchor { background: #b45309; text-align: right; }
.lira .thin { height: 6px; margin: 5px 0 0; min-width: 70px; }
.lira .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px; }
.lira .card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 12px; min-width: 0; }
.lira .card.ours { border: 2px solid var(--color-accent); padding: 9px 11px; }
.lira .card h4 { margin: 0; font-size: 15px; font-weight: 600; }
.lira .card ol { list-style: none; margin: 8px 0 0; padding: 0; }
.lira .card li { display: grid; grid-template-columns: 3.2em 1fr; gap: 6px; padding: 4px 5px; border-radius: 4px; }
.lira .card li.relevant { background: color-mix(in srgb, #16a34a 20%, transparent); }
.lira .score { font-variant-numeric: tabular-nums; color: var(--lira-quiet); font-size: 13px; }
.lira .text { overflow-wrap: anywhere; unicode-bidi: plaintext; }
.lira .answer { white-space: pre-wrap; overflow-wrap: anywhere; margin-top: 8px; }
.lira .place { margin-top: 6px; font-size: 13px; }
.lira .mark { color: #15803d; font-weight: 600; }
.dark .lira .mark { color: #4ade80; }
@media (max-width: 500px) { .lira .bar span { padding: 3px 4px; font-size: 11px; } }
.gradio-container textarea { unicode-bidi: plaintext; text-align: start; }
"""

_TEMPLATES = {
    "error": """<div class="lira"><div class="error" role="alert" dir="auto"><b>That did not work.</b>
{{ message }}</div></div>""",
    "heading": """<div class="lira"><h1>LiRA
<span class="small">{{ name }}</span></h1><p class="small">{{ facts|join(" · ") }}</p></div>""",
    "notes": """{% for note in notes %}<div class="note">{{ note }}</div>{% endfor %}""",
    "result": """<div class="card{{ ' ours' if result.system == 'LiRA' }}"><h4>{{ result.system }}</h4>
<div class="small">{{ meanings[result.system] }}</div>
{% if result.missing %}<p>Nothing: {{ result.missing }}.</p>{% endif %}<ol>{% for hit in result.hits %}
<li{% if hit.relevant %} class="relevant"{% endif %} title="{{ hit.id }}"><span class="score">
{{- "%.3f"|format(hit.score) }}</span><span class="text" dir="auto" lang="{{ hit.language or 'und' }}">
{%- if hit.relevant %}<span class="mark" title="known to be relevant">✓</span> {% endif %}{{ hit.text }}</span></li>
{%- endfor %}</ol>
{% if placed and not result.missing %}<div class="place">{% if result.rank %}<span class="mark">✓</span> at place
{{ result.rank }}{% else %}✗ not among the first 100{% endif %}</div>{% endif %}</div>""",
    "candidates": """<h3>Candidate translations</h3>{% if explanation.candidates %}<div class="wide"><table>
<tr><th>English candidate</th><th>from</th>
<th class="number" title="the translation critic's semantic, emotional, pragmatic scores, 1 to 10">
critic s · e · p</th>
<th class="number" title="the embedding critic's cosine of text and candidate">sim</th>
<th class="number" title="the actor's probability">actor</th>
<th class="number" title="how much it counts in the English road">counts</th></tr>
{% for one in explanation.candidates %}<tr{% if loop.index0 == chosen %} class="chosen"{% endif %}>
<td class="text" dir="auto">{{ one.text }}</td><td>{{ one.kind or own }}</td>
<td class="number">{{ "%.1f · %.1f · %.1f"|format(*one.scores) if one.scores else "not judged" }}</td>
<td class="number">{{ one.similarity|cosine }}</td><td class="number">{{ one.policy|percent }}</td>
<td class="number">{{ one.weight|percent }}
<div class="bar thin"><span class="anchor" style="width: {{ one.weight|width }}; padding: 0"></span></div>
</td></tr>{% endfor %}</table></div>{% else %}<p>There is none.</p>{% endif %}""",
    "shares": """<h3>How much each road counts</h3>
<div class="bar" role="img" aria-label="multilingual road {{ shares.start|percent }}">
{% if shares.start > 0 %}<span class="source" style="width: {{ shares.start|width }}">multilingual road
{{ shares.start|percent }}</span>{% endif %}
{% if shares.start < 1 %}<span class="anchor" style="width: {{ (1 - shares.start)|width }}">English road
{{ (1 - shares.start)|percent }}</span>{% endif %}</div>
<p class="small">Shares of the start [g; h]. {% if shares.agreement is not none %}The roads agree by a cosine of
{{ shares.agreement|cosine }} (sim, under the weights). {% endif %}LaSR keeps {{ shares.kept|cosine }} of the start
(cosine).{% if shares.prefix is not none %} Of the base LM's soft prefix the multilingual road makes
{{ shares.prefix|percent }}.{% endif %}</p>""",
    "shown": """<div class="lira">{% include "notes" %}
<p class="text asked" dir="auto" lang="{{ explanation.language or 'und' }}">{{ explanation.text }}</p>
{% if language %}<p class="small">{{ language }}</p>{% endif %}
{% include "candidates" %}{% include "shares" %}
{% if explanation.results %}<h3>Search, with and without LiRA</h3>
{% if relevant %}<p><span class="mark">✓ relevant:</span> {% for key, text in relevant %}<span class="text" dir="auto">
{{- text }}</span>{{ "; " if not loop.last }}{% endfor %}</p>{% endif %}
{% if explanation.results|length == 1 %}<p class="small">A folder of vectors holds LiRA's alone; start the demo with
texts and without --vectors to compare with the other systems.</p>{% endif %}
<div class="cards">{% for result in explanation.results %}{% include "result" %}{% endfor %}</div>
<h3>Nearest English, by each road alone</h3>{% set placed = false %}
<div class="cards">{% for result in explanation.neighbours %}{% include "result" %}{% endfor %}</div>
{% else %}<p class="small">There are no documents to search: start the demo with DATA or --vectors.</p>
{% endif %}</div>""",
    "answers": """<div class="lira">{% include "notes" %}<div class="cards">
{% for title, meaning, answer, ours in cards %}
<div class="card{{ ' ours' if ours }}"><h4>{{ title }}</h4><div class="small" dir="auto">{{ meaning }}</div>
<div class="answer text" dir="auto">{{ answer if answer.strip() else "(nothing)" }}</div></div>
{% endfor %}</div></div>""",
}
_ENVIRONMENT = Environment(loader=DictLoader(_TEMPLATES), autoescape=True, trim_blocks=True, undefined=StrictUndefined)
_ENVIRONMENT.filters |= {
    "cosine": "{:.3f}".format,
    "percent": lambda share: f"{100 * share:.0f} %",
    "width": lambda share: f"{100 * share:.1f}%",
}


def _render(template: str, /, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)


def render_heading(demo: LiraDemo) -> str:
    """What is being shown: the model, its documents, and where candidates come from."""
    documents, source = demo.explainer.documents, demo.embedder.candidates
    facts = ["no documents" if documents is None else f"{len(documents):,} documents"]
    if source is None:
        facts.append("no source of candidates: type them in by hand")
    else:
        names = {"store": getattr(source.store, "path", None), "translator": getattr(source.translator, "name", None)}
        names["critic"] = getattr(source.critic, "name", None)
        facts += [f"{kind} {name}" for kind, name in names.items() if name is not None]
    return _render("heading", name=demo.name, facts=facts)


def render_shown(shown: Shown, anchor_languages: Sequence[str] = ("en",)) -> str:
    """
    The panels of one text.

    Args:
        shown ([`Shown`]): What [`LiraDemo.look`] gives.
        anchor_languages (`Sequence[str]`, *optional*): Languages whose texts are their own candidates.

    Returns:
        `str`: HTML whose every text is escaped.
    """
    found = shown.explanation
    weights = [one.weight for one in found.candidates]
    tag = found.language
    return _render(
        "shown",
        explanation=found,
        shares=found.shares,
        notes=shown.notes,
        relevant=shown.relevant,
        placed=bool(shown.relevant or found.relevant),
        chosen=weights.index(max(weights)) if weights else None,
        own="the text itself" if tag in anchor_languages else "",
        language=None if tag is None else f"{language_name(tag)} ({tag})",
        meanings=_MEANINGS,
    )


def render_answers(answers: Answers) -> str:
    """The three answers to one question beside each other, as HTML whose every text is escaped."""
    cards = [
        ("with LiRA", "the base LM reads both roads' soft prefix and the text", answers.lira, True),
        ("the base LM alone", "it reads the bare text", answers.base, False),
    ]
    if answers.translation is not None and answers.translated is not None:
        cards.append(("translate, then the base LM", f"it reads: {answers.translation}", answers.translated, False))
    return _render("answers", notes=answers.notes, cards=cards)


def render_error(message: str) -> str:
    """A message for the reader in place of a panel."""
    return _render("error", message=message)
