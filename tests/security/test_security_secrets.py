"""Keys and tokens: in an address, in the environment, in a recipe; and where they must not turn up."""

import logging

import pytest
import yaml

from lira_hf.training import read_recipe, train_recipe
from lira_hf.translation import ChatTranslator, EndpointChat
from lira_hf.translation.base import NoAnswerError


SECRET = "sk-" + "Geheim" * 5


@pytest.mark.parametrize(
    "address",
    [
        f"http://localhost:1/v1?api_key={SECRET}",
        f"http://localhost:1/v1?key={SECRET}",
        f"http://localhost:1/v1?api-version=1&access_token={SECRET}",
        f"http://localhost:1/v1?sig={SECRET}",
        f"http://user:{SECRET}@localhost:1/v1",
        f"http://{SECRET}@localhost:1/v1",
    ],
)
def test_an_address_with_a_key_is_refused_and_not_shown(address):
    with pytest.raises(ValueError, match="expected an address") as error:
        EndpointChat(address, "m")
    assert SECRET not in str(error.value)


def test_an_address_with_other_settings_is_fine():
    chat = EndpointChat("http://localhost:1/v1?api-version=2024-02-01", "m")
    assert chat.base_url == "http://localhost:1/v1"


def test_a_key_is_in_no_log_error_or_meta_when_nobody_answers(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    caplog.set_level(logging.DEBUG)
    chat = EndpointChat("http://127.0.0.1:9/v1", "m", api_key_env="MY_KEY", max_tries=2, backoff=0.001, timeout=2)
    translator = ChatTranslator(chat)
    with pytest.raises(NoAnswerError) as error:
        translator.translate(["a"], "vi", 1)
    shown = [str(error.value), repr(error.value.__cause__), repr(error.value.__context__), caplog.text, repr(chat)]
    shown += [str(vars(chat)), str(getattr(translator, "meta", "")), translator.fingerprint, translator.name]
    assert not [text for text in shown if SECRET in text]


def test_a_token_of_a_recipe_or_of_the_environment_is_in_nothing_that_a_run_leaves(
    tiny_backbones, tiny_data, tmp_path, monkeypatch, caplog, capfd
):
    monkeypatch.setenv("HF_TOKEN", SECRET + "env")
    caplog.set_level(logging.DEBUG)
    recipe = {
        **tiny_backbones,
        "config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2},
        "data": str(tiny_data),
        "store": str(tiny_data / "store.sqlite"),
        "output_dir": str(tmp_path / "run"),
        "features": str(tmp_path / "features"),
        "hub_token": SECRET,
        "max_steps": 2,
        "save_steps": 1,
        "save_strategy": "steps",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train_recipe(read_recipe(tmp_path / "recipe.yaml"))
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "recipe.yaml"]
    assert {"lira_run.json", "training_args.bin", "config.json"} <= {path.name for path in written}
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
