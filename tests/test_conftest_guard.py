"""The guards of conftest.py and pyproject.toml: they must bite, or they guard nothing."""

import warnings

import huggingface_hub
import pytest
import torch
import transformers
from transformers.utils import logging as hf_logging
from transformers.utils.deprecation import deprecate_kwarg


@deprecate_kwarg("old", version="99.0")
def scale(new: int = 1, **kwargs) -> int:
    return new


class Layer(torch.nn.Module):
    @deprecate_kwarg("old", version="99.0")
    def forward(self, new: int = 1, **kwargs) -> int:
        return new


def warn_as(module: str, category: type[Warning]) -> None:
    exec(
        "warnings.warn('`x` is deprecated', category)",
        {"__name__": module, "warnings": warnings, "category": category},
    )


@pytest.mark.parametrize("method", ["warning", "warning_once", "error"])
def test_logged_deprecation_fails_the_test(method):
    logger = hf_logging.get_logger("transformers.modeling_anything")
    with pytest.raises(pytest.fail.Exception, match="logged a deprecation: `torch_dtype` is deprecated"):
        getattr(logger, method)("`torch_dtype` is deprecated! Use `dtype` instead!")
    with pytest.raises(pytest.fail.Exception, match="removed in v6"):
        logger.warning("%s will be removed in v6", "tp_plan")


def test_transformers_own_deprecated_argument_fails_the_test():
    with pytest.raises(pytest.fail.Exception, match="torch_dtype"):
        _ = transformers.BertConfig().torch_dtype


def test_other_messages_pass():
    logger = hf_logging.get_logger("transformers.modeling_anything")
    logger.warning("the tokenizer has no padding token")
    hf_logging.set_verbosity_error()


def test_silencing_transformers_lasts_one_test_only():
    # The test before this one silenced it.
    assert hf_logging.get_verbosity() == hf_logging.WARNING


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning])
@pytest.mark.parametrize("module", ["transformers.modeling_utils", "lira_hf.models.modeling_lira"])
def test_warnings_of_transformers_and_of_calls_from_here_are_errors(module, category):
    with pytest.raises(category, match="deprecated"):
        warn_as(module, category)


def test_warnings_that_blame_the_caller_are_errors():
    with pytest.raises(FutureWarning, match="`old` is deprecated"):
        scale(old=1)
    with pytest.raises(FutureWarning, match="`old` is deprecated"):
        Layer()(old=1)


def test_other_libraries_may_warn():
    # Not pytest.warns, which would lift the filters.
    with warnings.catch_warnings(record=True) as caught:
        warn_as("sklearn.utils", FutureWarning)
    assert [warning.category for warning in caught] == [FutureWarning]


def test_nothing_reaches_the_network():
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(OSError, match="offline|cached|internet"):
        transformers.AutoConfig.from_pretrained("nobody/no-such-model")
