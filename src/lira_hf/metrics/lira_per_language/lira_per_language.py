"""For `evaluate.load`, which takes the first module class that it finds in the file named like its folder."""

from lira_hf.metrics.modules import LiraPerLanguage


__all__ = ["LiraPerLanguage"]
