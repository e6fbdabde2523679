"""The configurations of examples/distributed are what accelerate reads: every key has its place, and the launcher
makes of them what they say."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from lira_hf.training.sharding import check_launch


FOLDER = Path(__file__).parents[2] / "examples" / "distributed"
NAMES = ("ddp_cpu", "ddp_multi_gpu", "fsdp2_cpu", "fsdp2_multi_gpu", "deepspeed_zero2", "deepspeed_zero3")


def parsed(name):
    """The launcher's arguments, as `accelerate launch --config_file ...` has them."""
    options = ["--config_file", str(FOLDER / f"{name}.yaml"), "-m", "lira_hf.cli", "train", "recipe.yaml"]
    return _validate_launch_command(launch_command_parser().parse_args(options))[0]


def test_all_are_here():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_known(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # refuses unknown keys at the top
    arguments = vars(parsed(name))
    nested = {**config.fsdp_config, **config.deepspeed_config}
    assert [key for key in nested if key not in arguments] == []
    for key, value in nested.items():
        assert str(arguments[key]).lower() == str(value).lower()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddp_cpu", {"multi_gpu": True}),
        ("ddp_multi_gpu", {"multi_gpu": True, "mixed_precision": "bf16"}),
        ("fsdp2_cpu", {"use_fsdp": True, "fsdp_version": 2}),
        ("fsdp2_multi_gpu", {"use_fsdp": True, "fsdp_version": 2, "mixed_precision": "bf16"}),
    ],
)
def test_several_processes_are_started(name, kind):
    arguments = parsed(name)
    for key, value in kind.items():
        assert getattr(arguments, key) == value
    assert arguments.num_processes > 1
    arguments.main_process_port = 0
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.nproc_per_node == str(arguments.num_processes)
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") is name.startswith("fsdp2")


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(stage, monkeypatch):
    arguments = parsed(f"deepspeed_zero{stage}")
    assert arguments.use_deepspeed
    arguments.main_process_port, arguments.deepspeed_fields_from_accelerate_config = 0, "zero_stage"
    monkeypatch.setattr("accelerate.utils.launch.is_deepspeed_available", lambda: True, raising=False)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    for key, value in environment.items():
        if key.startswith("ACCELERATE_"):
            monkeypatch.setenv(key, value)
    if stage == 2:
        check_launch()
    else:
        with pytest.raises(ValueError, match="got DeepSpeed's ZeRO stage 3.*use FSDP2.*fsdp2_multi_gpu.yaml"):
            check_launch()


def test_they_say_how_far_they_were_tried():
    for name in NAMES:
        text = (FOLDER / f"{name}.yaml").read_text()
        assert ("Tested: " in text) is name.endswith("_cpu")
        assert ("Parsed in a test" in text) is not name.endswith("_cpu")
        assert yaml.safe_load(text)["compute_environment"] == "LOCAL_MACHINE"
