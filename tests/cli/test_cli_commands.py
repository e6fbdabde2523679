"""The `lira` commands: help, results, and bad input, which ends with exit code 1 and a message on stderr."""

import json
import re
import shutil
import sqlite3

import pytest
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.data import read_beir
from lira_hf.evaluation import evaluate_embedder
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.translation import CandidateStore, HeuristicCritic, Identity, Lexicon, TranslationMemory


@pytest.fixture
def lira():
    """`lira(*arguments)`: the command in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def checkpoint(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_lira():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def refused():
    """`refused(result, *patterns)`: it ended with code 1 and one error message that matches, and no traceback."""

    def check(result, *patterns):
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output
        for pattern in patterns:
            assert re.search(pattern, " ".join(result.stderr.split())), result.stderr

    return check


@pytest.mark.parametrize("command", [[], ["quickstart"], ["train"], ["evaluate"], ["search"]])
def test_help(lira, command):
    result = lira(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    for name in ("quickstart", "train", "evaluate", "search") if not command else command:
        assert name in result.stdout


# search


def test_search_finds_documents_of_a_text_file(lira, checkpoint, tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("red moon\n\n[/bold] [red]river[/red]\ngreen house\n")
    result = lira("search", checkpoint, file, "-q", "en:green house", "-q", "sw:[/x] moon", "-k", 2)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if "green house" in line and "│ en" in line]
    assert len(rows) == 1
    assert re.search(r"1\.00  green house", rows[0])  # an English text finds itself first
    assert "3 documents" in result.stdout
    assert "[/x] moon" in result.stdout
    again = lira("search", checkpoint, file, "-q", "en:green house", "-k", 3)
    assert "[/bold] [red]river[/red]" in again.stdout  # text of the corpus is no markup


def test_search_translates_and_caches(lira, checkpoint, tiny_data, tmp_path):
    memory = TranslationMemory.fit([("vi", "derv reviru", "red river"), ("vi", "esuohv", "house")])
    memory.save(tmp_path / "memory")
    options = ["--translator", tmp_path / "memory", "--features", tmp_path / "cache", "--candidates", 1]
    result = lira("search", checkpoint, tiny_data, "-q", "vi:derv reviru", *options)
    assert result.exit_code == 0, result.output
    assert "red river" in result.stdout
    assert len(list((tmp_path / "cache").glob("*/features.bin"))) == 2
    assert lira("search", checkpoint, tiny_data, "-q", "vi:derv reviru", *options).stdout == result.stdout


def test_search_embeds_a_document_in_its_language(lira, checkpoint, tmp_path):
    TranslationMemory.fit([("vi", "derv reviru", "red river")]).save(tmp_path / "memory")
    corpus, scores = tmp_path / "corpus.jsonl", []
    for language in ({"language": "vi"}, {}):
        rows = [{"_id": "a", "text": "derv reviru"} | language, {"_id": "b", "text": "red river"}]
        corpus.write_text("\n".join(json.dumps(row) for row in rows))
        result = lira("search", checkpoint, corpus, "-q", "vi:derv reviru", "--translator", tmp_path / "memory")
        assert result.exit_code == 0, result.output
        scores.append(re.search(r"([-\d.]+)  derv reviru", result.stdout).group(1))
    assert scores[0] == "1.00"  # what is asked and what is found are the same text, with the same translation
    assert float(scores[1]) < 0.99  # read as English, it is its own candidate


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("Dhaka", "the query is 'Dhaka'; expected LANGUAGE:TEXT.*write the language first"),
        ("vi:  ", "expected LANGUAGE:TEXT"),
        (":Dhaka", "language"),
        ("xx-nonsense:Dhaka", "unknown language tag 'xx-nonsense'"),
        ("bengla:Dhaka", "unknown language tag 'bengla'; expected a tag that CLDR knows"),
    ],
)
def test_search_with_a_query_that_is_none(lira, checkpoint, tiny_data, refused, query, message):
    refused(lira("search", checkpoint, tiny_data, "-q", query), message)


def test_search_without_documents_or_a_model(lira, checkpoint, tiny_data, tiny_backbones, tmp_path, refused):
    refused(
        lira("search", checkpoint, tmp_path / "none", "-q", "vi:x"), "none'.*expected a BEIR folder, a .jsonl file"
    )
    refused(lira("search", tmp_path / "no-model", tiny_data, "-q", "vi:x"), "no-model")
    refused(
        lira("search", tiny_backbones["anchor"], tiny_data, "-q", "vi:x"), "holds a BertModel; expected a LiRA check"
    )
    result = lira("search", checkpoint, tiny_data)
    assert result.exit_code == 2
    assert "--query" in result.stderr


def test_a_checkpoint_without_a_weight_of_arca(lira, checkpoint, tiny_data, tmp_path, refused):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["arca.actor.fc1.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    (broken / "lira_checksums.json").unlink()  # changed on purpose
    for command in (["search", broken, tiny_data, "-q", "vi:x"], ["evaluate", broken, tiny_data]):
        refused(lira(*command), "lacks 1 weights of LiraModel, among them arca.actor.fc1.weight")


# evaluate


def test_evaluate_gives_the_functions_figures(lira, checkpoint, tiny_lira, tiny_data, tmp_path):
    store = tiny_data / "store.sqlite"
    file = tmp_path / "figures.json"
    result = lira("evaluate", checkpoint, tiny_data, "--store", store, "--critic", "judge:1", "--json", file)
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert list(figures) == ["without translation", "with translation"]
    source = CandidateSource(CandidateStore(store, read_only=True), critic=Identity("judge", "1"))
    scores = evaluate_embedder(LiraEmbedder(*tiny_lira(), source), read_beir(tiny_data, "test"))
    for metric in ("ndcg@10", "recall@1", "mrr"):
        assert figures["with translation"][metric] == pytest.approx(
            {"mean": scores.mean(metric), **scores.per_language(metric)}
        )
    assert f"{100 * scores.mean():.1f}" in result.stdout
    assert "24 queries, 48 documents" in result.stdout
    unscored = lira("evaluate", checkpoint, tiny_data, "--store", store, "--json", file)
    assert unscored.exit_code == 0
    assert json.loads(file.read_text())["with translation"] != figures["with translation"]
    assert "with translation" not in lira("evaluate", checkpoint, tiny_data).stdout.replace("without translation", "")


def test_evaluate_takes_a_saved_critic_as_the_other_commands_do(lira, checkpoint, tiny_data, tmp_path):
    pairs = [("vi", "derv reviru", "red river")]
    HeuristicCritic(Lexicon.fit(pairs)).save(tmp_path / "critic")
    TranslationMemory.fit(pairs).save(tmp_path / "memory")
    options = ("--translator", tmp_path / "memory", "--critic", tmp_path / "critic")
    result = lira("evaluate", checkpoint, tiny_data, *options)
    assert result.exit_code == 0, result.output
    assert "with translation" in result.stdout.replace("without translation", "")


def test_evaluate_on_a_beir_folder_that_is_none(lira, checkpoint, tiny_data, tmp_path, refused):
    refused(lira("evaluate", checkpoint, tmp_path), "without corpus.jsonl, queries.jsonl, qrels/test.tsv")
    refused(lira("evaluate", checkpoint, tiny_data, "--split", "tset"), r"\['dev', 'test', 'train'\].*split's name")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_data, broken)
    with (broken / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\td-missing\t1\n")
    refused(lira("evaluate", checkpoint, broken), "test.tsv.*d-missing")


def test_evaluate_with_a_store_that_is_none(lira, checkpoint, tiny_data, tmp_path, refused):
    other = tmp_path / "other.sqlite"
    shutil.copy(tiny_data / "store.sqlite", other)
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA user_version = 7")
    connection.commit()
    connection.close()
    refused(lira("evaluate", checkpoint, tiny_data, "--store", other), "has schema version 7; expected 1")
    refused(
        lira("evaluate", checkpoint, tiny_data, "--store", tmp_path / "none"),
        "isn't there; expected a candidate store",
    )
    refused(lira("evaluate", checkpoint, tiny_data, "--store", checkpoint / "config.json"), "isn't a SQLite file")


# train


def test_train_carries_a_recipe_out(lira, tiny_backbones, tiny_data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                **tiny_backbones,
                "config": {"hidden_size": 16, "num_attention_heads": 2},
                "data": str(tiny_data),
                "store": str(tiny_data / "store.sqlite"),
                "output_dir": str(tmp_path / "out"),
                "max_steps": 2,
                "eval_strategy": "steps",
                "eval_steps": 2,
                "save_steps": 2,
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
            }
        )
    )
    result = lira("train", recipe)
    assert result.exit_code == 0, result.output
    assert re.search(r"eval_ndcg@10: 0\.\d{4}", result.stdout)
    logged = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    found = {name for entry in logged for name in entry if name.startswith("eval_baseline_")}
    assert found > {f"eval_baseline_{name}_ndcg@10" for name in ("g_alone", "translate_then_h", "concat", "untrained")}
    assert lira("search", tmp_path / "out", tiny_data, "-q", "en:red").exit_code == 0


def test_train_with_a_recipe_that_is_none(lira, tiny_data, tiny_backbones, tmp_path, refused):
    recipe = tmp_path / "recipe.yaml"
    good = {**tiny_backbones, "data": str(tiny_data), "output_dir": str(tmp_path / "out"), "report_to": "none"}
    for change, message in (
        ({"learning_rte": 1e-3}, r"unknown keys \['learning_rte'\].*correct it to 'learning_rate'"),
        ({"data": str(tmp_path / "none")}, "expected a BEIR folder"),
        ({"encoder": str(tmp_path / "none")}, "none"),
        ({"config": {"num_bins": "four"}}, "num_bins"),
        ({"store": str(tmp_path / "none.sqlite")}, "expected a candidate store"),
    ):
        recipe.write_text(yaml.safe_dump(good | change))
        refused(lira("train", recipe), message)
    refused(lira("train", tmp_path / "none.yaml"), "expected a YAML file; mend the path")


# quickstart


def test_quickstart_with_wrong_settings(lira, tmp_path, refused, monkeypatch):
    unknown = lira("quickstart", "--corpus", "wikipedia", "--output", tmp_path)
    refused(unknown, "corpus is 'wikipedia'; expected one of .*'cldr', 'catalogs', 'study'")
    assert lira("quickstart", "--seeds", 0).exit_code == 2
    (tmp_path / "settings.json").write_text('{"corpus": "catalogs"}')
    refused(
        lira("quickstart", "--output", tmp_path), "holds a run with other settings.*corpus.*choose another --output"
    )


def test_quickstart_without_its_extra_says_how_to_install_it(lira, tmp_path, refused, monkeypatch):
    def missing(*_, **__):
        raise ImportError("not installed; install it with `pip install 'lira-hf[quickstart]'`")

    monkeypatch.setattr("lira_hf.quickstart.Quickstart.run", missing)
    # The brackets are there: they are no markup.
    refused(lira("quickstart", "--output", tmp_path), r"pip install 'lira-hf\[quickstart\]'")
