"""Every test runs offline, on two threads at most, and fails on what transformers calls deprecated."""

import logging
import os
import re
import tempfile


# The libraries read these when they are imported. An empty home keeps out what a developer's cache happens to hold.
_HOME = tempfile.TemporaryDirectory(prefix="lira-tests-")
os.environ.update(
    HF_HOME=_HOME.name,
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="warning",
)

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(min(2, torch.get_num_threads()))

_DEPRECATION = re.compile(r"deprecat|will be removed in", re.IGNORECASE)
_LOGGER = logging.getLogger("transformers")


class _FailOnDeprecation(logging.Handler):
    """For what transformers only logs; `filterwarnings` in pyproject.toml sees to what it warns about."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING and _DEPRECATION.search(message):
            pytest.fail(f"transformers logged a deprecation: {message}; use what it names instead")


_LOGGER.addHandler(_FailOnDeprecation())


@pytest.fixture(autouse=True)
def hear_deprecations():
    """A test may silence transformers; the next one must hear it again."""
    _LOGGER.setLevel(logging.WARNING)
