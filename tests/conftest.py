"""Every test runs offline, on one thread, and fails on what transformers calls deprecated."""

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
    # The models are tiny, and threads that wait for a busy core cost more than they bring. Subprocesses too: other
    # thread counts, other roundings.
    OMP_NUM_THREADS="1",
    TRANSFORMERS_VERBOSITY="warning",
)

import pytest  # noqa: E402
import torch  # noqa: E402
from made_up_words import WORDS, foreign  # noqa: E402


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


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8, "num_bins": 2}


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory):
    """Folders of a tiny g (hashed n-grams) and h (BERT over a dozen words)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from lira_hf import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbones")
    NgramEncoderModel(NgramEncoderConfig(vocab_size=300, embedding_size=8, hidden_size=16)).save_pretrained(
        folder / "g"
    )
    NgramTokenizer(num_buckets=298).save_pretrained(folder / "g")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    BertModel(BertConfig(vocab_size=20, hidden_size=24, initializer_range=0.3, **sizes)).save_pretrained(folder / "h")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)
    fast.save_pretrained(folder / "h")
    return {"encoder": str(folder / "g"), "anchor": str(folder / "h")}


@pytest.fixture(scope="session")
def tiny_lira(tiny_backbones):
    """`tiny_lira(**config)`: an untrained LiraModel over the tiny backbones and its processor, the same every time."""
    from lira_hf import LiraModel, LiraProcessor

    def make(**config):
        torch.manual_seed(1)
        model = LiraModel.from_backbones(**tiny_backbones, **TINY | {"languages": ["vi", "ur", "en"]} | config)
        return model, LiraProcessor.from_backbones(**tiny_backbones, trained_languages=model.config.languages)

    return make


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A BEIR folder in two made-up languages, and a store with two judged candidates a query: the worse one first."""
    import itertools

    from lira_hf.data import Query, write_beir
    from lira_hf.translation import Candidate, CandidateStore, Identity, Score

    folder = tmp_path_factory.mktemp("data")
    texts = [" ".join(words) for words in itertools.combinations(WORDS[:8], 3)][:48]
    corpus = {f"d{number}": text for number, text in enumerate(texts)}
    queries, qrels = {}, {"train": {}, "dev": {}, "test": {}}
    who = Identity("made up", "1")
    with CandidateStore(folder / "store.sqlite") as store:
        for number, (document, text) in enumerate(corpus.items()):
            side = ("train", "train", "dev", "test")[number % 4]
            for language in ("vi", "ur"):
                asked, query = foreign(text, language), f"q{len(queries)}"
                queries[query] = Query(asked, language)
                qrels[side][query] = {document: 1}
                poor = " ".join(text.split()[:2] + ["moon"])
                store.add(language, [(asked, [Candidate(poor, "poor", "x"), Candidate(text, "good", "x")])], who)
                rows = [(asked, poor, Score(4, 4, 4)), (asked, text, Score(9, 9, 9))]
                store.add_scores(language, rows, Identity("judge", "1"))
    write_beir(folder, corpus, queries, qrels)
    return folder
