"""Chat models in this process: a tiny random LM with a chat template of its own."""

import copy
import logging
import pickle

import pytest
import torch

from lira_hf.translation import CandidateStore, fill_store
from lira_hf.translation.base import NoAnswerError
from lira_hf.translation.chat import ChatModel
from lira_hf.translation.chat_translator import ChatTranslator
from lira_hf.translation.local_chat import LocalChat


@pytest.fixture
def store(tmp_path):
    with CandidateStore(tmp_path / "c.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def local():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<s>", "</s>", "system", "user", "assistant", *"abcdefghijklmnopqrstuvwxyz"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] == 'refuse' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}{{ 'assistant ' }}"
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def test_local_chat_answers_in_batches_as_one_by_one(local):
    model, tokenizer = local
    chat = LocalChat(model, tokenizer, batch_size=4, max_new_tokens=12)
    assert isinstance(chat, ChatModel)
    contents = ["a b c d e f g h", "a", "z y x", "q q", "h e l l o", "refuse", " ".join("a" * 36)]
    conversations = [[{"role": "user", "content": content}] for content in contents]
    replies = dict(chat.answer(conversations, language="vi"))
    assert sorted(replies) == list(range(7))
    for position, conversation in enumerate(conversations[:5]):  # oracle: the library, one by one
        ids = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        new = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=1)[0, ids["input_ids"].shape[1] :]
        assert replies[position].text == tokenizer.decode(new, skip_special_tokens=True)
        assert replies[position].truncated == (1 not in new.tolist())
        assert replies[position].prompt_tokens == ids["input_ids"].shape[1]
        assert replies[position].completion_tokens == len(new)
    assert len({replies[position].text for position in range(5)}) > 1
    assert "no system role" in replies[5].message
    assert "the prompt has 38 tokens and the reply up to 12, more than the 40" in replies[6].message
    assert chat.usage["vi"].failures == {"rejected": 2}
    other = LocalChat(model, tokenizer, max_new_tokens=13)
    assert chat.fingerprint == LocalChat(model, tokenizer, batch_size=2, max_new_tokens=12).fingerprint
    assert chat.fingerprint != other.fingerprint
    plain = pickle.loads(pickle.dumps(tokenizer))
    plain.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        LocalChat(model, plain)


def test_local_chat_is_greedy_whatever_the_checkpoint_says(local, caplog, monkeypatch):
    model, tokenizer = local
    conversations = [[{"role": "user", "content": content}] for content in ("a b c", "x y", "q")]
    chat = LocalChat(model, tokenizer, max_new_tokens=12)
    greedy, before = dict(chat.answer(conversations)), chat.fingerprint
    own = copy.deepcopy(model.generation_config)
    own.update(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, max_length=30)
    monkeypatch.setattr(model, "generation_config", own)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert dict(LocalChat(model, tokenizer, max_new_tokens=12).answer(conversations)) == greedy
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if "not valid" in record.getMessage()] == []
    assert LocalChat(model, tokenizer, max_new_tokens=12).fingerprint != before
    sampled = LocalChat(model, tokenizer, max_new_tokens=12, generation={"do_sample": True, "temperature": 5.0})
    torch.manual_seed(0)
    assert dict(sampled.answer(conversations)) != greedy


def test_local_chat_translates_into_a_store(local, store):
    """A random model writes garbage: every text fails, none is stored, and the error says so."""
    translator = ChatTranslator(LocalChat(*local, max_new_tokens=4))
    local[0].config.max_position_embeddings, kept = 4096, local[0].config.max_position_embeddings
    try:
        with pytest.raises(NoAnswerError, match=r"2 of 2 texts .*(truncated|unusable)"):
            fill_store(store, ["x", "y"], "vi", translator, progress=False)
    finally:
        local[0].config.max_position_embeddings = kept
    assert store.missing("vi", ["x", "y"], translator) == ["x", "y"]
