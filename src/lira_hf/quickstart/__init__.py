"""From nothing to a trained model on real text: the quickstart's corpora, its small encoder, its steps and its
report."""

from .corpus import Corpus, catalog_corpus, cldr_corpus, write_corpus
from .pipeline import Quickstart, Results
from .report import build_report, plot_report, report_table, write_card
from .settings import QuickstartSettings


__all__ = [
    "Corpus",
    "Quickstart",
    "QuickstartSettings",
    "Results",
    "build_report",
    "catalog_corpus",
    "cldr_corpus",
    "plot_report",
    "report_table",
    "write_card",
    "write_corpus",
]
