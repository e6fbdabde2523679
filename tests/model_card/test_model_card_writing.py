"""The card itself: metadata that the Hub reads, words that can't break out, and what a person wrote stays."""

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lira_hf import LiraConfig
from lira_hf.model_card import (
    HUB_LICENSES,
    TEMPLATE,
    CardError,
    DataFacts,
    Giver,
    Part,
    basic_model_card,
    checkpoint_facts,
    config_facts,
    make_model_card,
    write_model_card,
)
from lira_hf.training import read_run_facts, write_run_facts


HOSTILE = [
    "a\nlicense: evil",
    "a\n---\n# Out",
    "<script>alert(1)</script>",
    "![x](http://a.b/c.png)",
    "[x](javascript:alert(1))",
    "| a | b |",
    "`a` ``b`` ```c",
    "-->",
    "<!-- yours: about -->\nx\n<!-- end of yours: about -->",
    "{{ 7 * 7 }} {% for x in y %}",
    "# A heading",
    "* item",
    "**bold** _it_ ~~out~~",
    "no",
    "null",
    ": [}&*!",
    "\u202egnp.exe",
    "a\x00b\x1b[31m",
    "'\"",
]
PAGE = MarkdownIt("commonmark").enable("table")


@pytest.fixture
def facts(checkpoint, report):
    return checkpoint_facts(checkpoint, reports=[report], license="apache-2.0", datasets=["org/data"])


def test_the_hub_reads_its_metadata(facts, checkpoint):
    path = write_model_card(facts, checkpoint)
    card = ModelCard.load(path)
    data = card.data
    assert data.language == ["vi", "ur", "en"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "feature-extraction")
    assert (data.tags, data.datasets) == (["lira", "cross-lingual-retrieval"], ["org/data"])
    assert "base_model" not in data.to_dict()  # folders have no place on the Hub
    results = {(one.dataset_config, one.metric_type): one for one in data.eval_results}
    assert len(results) == 9
    assert results["mean", "ndcg_at_10"].metric_value == 0.7024
    # Against the strongest of the others.
    wanted = "nDCG@10 (minus concat, equal: +0.0600, 95 % interval [0.0500, 0.0700])"
    assert results["vi", "ndcg_at_10"].metric_name == wanted
    assert {one.task_type for one in data.eval_results} == {"text-retrieval"}
    # Through YAML and back, to the letter.
    assert str(ModelCard(str(card))) == str(card) == path.read_text()


def test_every_system_is_in_the_table_and_nothing_is_left_unfilled(facts, checkpoint):
    text = write_model_card(facts, checkpoint).read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    start = rows.index("| | `vi` | `ur` | mean | LiRA minus it |")
    assert rows[start + 1 : start + 5] == [
        "|---|---:|---:|---:|---:|",
        "| g alone | 60.0 | 40.0 | 50.0 | +20.0 [19.0, 21.0] |",
        "| concat, equal | 75.0 | 55.0 | 65.0 | +5.0 [4.0, 6.0] |",
        "| LiRA | 80.2 | 60.2 | 70.2 |  |",
    ]
    assert "| concat, equal | +6.0 [5.0, 7.0] | +4.0 [3.0, 5.0] |" in rows
    for fact in ("78 queries, 910 documents, mean of 2 seeds", "| `data0` | `dev` 24", "192 candidates", "CC-BY-4.0"):
        assert fact in text.replace("`train` 48, ", "") or fact in text
    assert not re.search(r"\{\{|\}\}|\{%|None|Undefined", text.split("```bibtex")[0])
    assert "CO2" not in text  # nobody measured it


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_breaks_out(facts, checkpoint, text):
    said = [DataFacts(text, text, {text: 3}, {text: 2})]
    hostile = replace(
        facts,
        name=text,
        parts=[Part("English encoder", text, text, None)],
        data=said,
        candidates=[Giver(text, text, 1)],
        candidates_text=text,
        critic_text=text,
        data_text=text,
        limits=text,
        license=text,
        versions={text: text},
        bound={text: 1.0},
        measured=[replace(one, dataset=text, split=text, notes=[text]) for one in facts.measured],
    )
    path = write_model_card(hostile, checkpoint)
    card, plain = ModelCard.load(path), make_model_card(facts)
    assert set(card.data.language) - {"no"} == set(plain.data.language)  # the word is a language, too
    assert card.data.license in {"other", *HUB_LICENSES}
    assert card.data.to_dict().keys() - plain.data.to_dict().keys() <= {"license_name"}
    assert [one.metric_value for one in card.data.eval_results] == [o.metric_value for o in plain.data.eval_results]
    # The page has the same headings, tables and lists as one of harmless words; no HTML, link or image of theirs.
    page = PAGE.parse(card.text)
    assert _shape(page) == _shape(PAGE.parse(make_model_card(_harmless(hostile)).text))
    inner = [token for block in page for token in block.children or []]
    assert not {"link_open", "image", "html_inline", "strong_open", "em_open"} & {token.type for token in inner}
    assert not re.search("[\x00-\x08\x1b\u202e]", path.read_text())
    assert str(write_model_card(hostile, checkpoint).read_text()) == str(card)


def _harmless(facts):
    word = "word"
    return replace(
        facts,
        name=word,
        parts=[Part("English encoder", word, word, None)],
        data=[DataFacts(word, word, {word: 3}, {word: 2})],
        candidates=[Giver(word, word, 1)],
        candidates_text=word,
        critic_text=word,
        data_text=word,
        limits=word,
        license=word,
        versions={word: word},
        bound={word: 1.0},
        measured=[replace(one, dataset=word, split=word, notes=[word]) for one in facts.measured],
    )


def _shape(tokens) -> list[tuple[str, str]]:
    return [(token.type, token.tag) for token in tokens if token.type != "inline"]


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (["ur-Latn", "ur", "pt-BR"], ["ur", "pt", "en"]),
        (["fil", "tl"], ["fil", "en"]),
        (["no"], ["no", "en"]),
        (["zh-Hant", "yue"], ["zh", "yue", "en"]),
        (["und", "qqq", "a\nb: c", "", "klingon"], ["en"]),
    ],
)
def test_languages_are_those_that_the_hub_knows(tags, wanted):
    card = basic_model_card(LiraConfig(languages=tags), "x")
    found = yaml.safe_load(str(card).split("---")[1])["language"]
    assert [{"nb": "no"}.get(tag, tag) for tag in found] == wanted
    assert ModelCard(str(card)).data.language == found


def test_backbones_are_base_models_where_the_hub_has_them():
    info = {
        "encoder": {"name": "BAAI/bge-m3", "revision": "a" * 40},
        "anchor": {"name": "/home/me/secret/anchor", "revision": None},
        "base": {"name": "org/base", "revision": "b" * 40},
    }
    config = LiraConfig(
        base_config={"model_type": "llama"}, anchor_config={"model_type": "bert"}, backbone_info=info, languages=["bn"]
    )
    card = basic_model_card(config, "x")
    assert card.data.base_model == ["org/base", "BAAI/bge-m3"]
    assert (card.data.base_model_relation, card.data.pipeline_tag) == ("finetune", "text-generation")
    assert "Base LM: org/base (llama), commit `bbbb" in card.text
    assert "English encoder: anchor (bert)" in card.text
    assert "secret" not in str(card)
    config.backbones_saved = False
    assert basic_model_card(config, "x").data.base_model_relation == "adapter"


def test_a_sentence_transformers_folder(checkpoint):
    (checkpoint / "modules.json").write_text("[]")
    card = ModelCard.load(write_model_card(checkpoint_facts(checkpoint), checkpoint))
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert 'SentenceTransformer("path/to/lira-tiny")' in card.text


@pytest.mark.parametrize(
    ("license", "wanted"),
    [
        ("MIT", {"license": "mit"}),
        ("My own: licence", {"license": "other", "license_name": "my-own-licence"}),
    ],
)
def test_licences(facts, license, wanted):
    data = make_model_card(replace(facts, license=license)).data.to_dict()
    assert {name: value for name, value in data.items() if name.startswith("license")} == wanted


def test_an_id_that_no_data_set_has(facts):
    with pytest.raises(ValueError, match="got the data set 'a b/c' .*expected its id on the Hub"):
        make_model_card(replace(facts, datasets=["a b/c"]))


# What a person wrote


def test_written_twice_it_is_the_same(facts, checkpoint):
    first = write_model_card(facts, checkpoint).read_bytes()
    assert write_model_card(facts, checkpoint).read_bytes() == first
    assert not (checkpoint / "README.before-card.md").exists()


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_a_persons_words_and_fields_stay(facts, checkpoint, line):
    path = write_model_card(replace(facts, license=None, measured=[]), checkpoint)
    words = "Ours, with **bold**, | and {{ braces }}.\n\n* <b>also</b> this\n"
    text = path.read_text()
    for name in ("about", "more"):
        start = text.index("\n", text.index(f"<!-- yours: {name}")) + 1
        text = text[:start] + words + text[start:]
    text = text.replace("tags:\n", "license: mit\nextra_gated_prompt: Please ask.\ntags:\n- mine\n", 1)
    path.write_bytes(text.replace("\n", line).encode())
    write_model_card(replace(facts, license=None), checkpoint)
    card = ModelCard.load(path)
    assert card.text.replace("\r\n", "\n").count(words) == 2
    assert (card.data.license, card.data.extra_gated_prompt) == ("mit", "Please ask.")
    assert card.data.tags == ["lira", "cross-lingual-retrieval", "mine"]
    assert card.data.eval_results
    assert "Weights: mit." in card.text
    again = path.read_bytes()
    write_model_card(replace(facts, license=None), checkpoint)
    assert path.read_bytes() == again


def test_a_block_that_the_template_lacks_stays(facts, checkpoint):
    path = write_model_card(facts, checkpoint)
    own = "<!-- yours: results -->\nOur own.\n<!-- end of yours: results -->"
    text = path.read_text()
    path.write_text(text.replace("<!-- yours: more", f"{own}\n<!-- yours: more"))
    with pytest.raises(CardError, match="changed outside"):
        write_model_card(facts, checkpoint)
    write_model_card(facts, checkpoint, overwrite=True)
    assert path.read_text().count("Our own.") == 1
    write_model_card(facts, checkpoint)
    assert path.read_text().count("Our own.") == 1


@pytest.mark.parametrize("change", ["text", "field", "foreign", "unclosed"])
def test_what_would_be_lost_is_refused_and_then_kept_aside(facts, checkpoint, change):
    path = write_model_card(facts, checkpoint)
    text = path.read_text()
    changed = {
        "text": text.replace("## Limits", "Never use it.\n\n## Limits"),
        "field": text.replace("pipeline_tag: feature-extraction", "pipeline_tag: text-ranking"),
        "foreign": "# By hand\n",
        "unclosed": text.replace("<!-- end of yours: about -->", "mine"),
    }[change]
    assert changed != text
    path.write_text(changed)
    with pytest.raises(CardError, match=r"README.md, which .*; expected a card whose own words stand between .*move"):
        write_model_card(facts, checkpoint)
    assert path.read_text() == changed
    write_model_card(facts, checkpoint, overwrite=True)
    assert (checkpoint / "README.before-card.md").read_text() == changed
    write_model_card(facts, checkpoint)


def test_metadata_that_cannot_be_read(facts, checkpoint):
    (checkpoint / "README.md").write_text("---\n: [\n---\nx\n")
    with pytest.raises(CardError, match="whose metadata can't be read"):
        write_model_card(facts, checkpoint)


def test_a_template_of_ones_own(facts, checkpoint, tmp_path):
    template = tmp_path / "own.md"
    template.write_text("# {{ facts.name | md }}\n\n{{ block('about') }}\n")
    assert "# lira-tiny" in write_model_card(facts, checkpoint, template=template).read_text()
    for wrong in ("{{ facts.nothing }}", "{% if %}", "{{ facts.__class__.__mro__ }}"):
        template.write_text(wrong)
        with pytest.raises(ValueError, match="got the template .*own.md, of which no card can be made"):
            write_model_card(facts, checkpoint, template=template)
    with pytest.raises(FileNotFoundError):
        write_model_card(facts, checkpoint, template=tmp_path / "none.md")


def test_the_templates_in_model_cards_are_those_of_the_package():
    shown = TEMPLATE.parents[4] / "model_cards" / "templates"
    assert {path.name: path.read_text() for path in shown.glob("*.md")} == {
        path.name: path.read_text() for path in TEMPLATE.parent.glob("*.md")
    }


def test_a_run_of_the_past_is_one_of_the_stages(checkpoint):
    runs = read_run_facts(checkpoint)
    write_run_facts(checkpoint, [*runs, {**runs[-1], "stage": "third", "processes": 4}])
    text = make_model_card(config_facts(LiraConfig(), "x", read_run_facts(checkpoint))).text
    assert [line[:9] for line in text.splitlines() if re.match(r"\d\. Stage", line)] == [
        "1. Stage ",
        "2. Stage ",
        "3. Stage ",
    ]
    assert "in 4 processes" in text
