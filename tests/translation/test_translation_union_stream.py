"""A union that streams: who waits for whom, what becomes of failures, and that nothing is left open."""

import json
import pickle
import threading

import pytest
from chat_server import Answer, ChatServer

from lira_hf.quickstart.candidates import _NamedCritic
from lira_hf.translation import (
    Candidate,
    CandidateStore,
    ChatTranslator,
    EndpointChat,
    Failure,
    NoAnswerError,
    PartialFailure,
    StreamingCritic,
    StreamingTranslator,
    TranslatorUnion,
    fill_store,
)


TEXTS = [f"t{number}" for number in range(10)]
TIMEOUT = Failure("timeout", "no answer within 1 second")
REFUSED = Failure("refused", "the model refused twice", replied=True)


class Canned:
    """Translates each text by `name:text`, by the chunk."""

    def __init__(self, name, log=None, gone_at=None):
        self.name, self.fingerprint = name, name
        self.log = [] if log is None else log
        self.gone_at = gone_at

    def translate(self, texts, language, num_candidates):
        if self.gone_at in texts:
            raise NoAnswerError(f"{self.name} is gone")
        self.log.append((self.name, list(texts)))
        return [[Candidate(f"{self.name}:{text}", "canned", self.name)] for text in texts]


class Streaming(Canned):
    """The same, text by text; `answers` replaces the answers of some texts, `order` is that of the positions."""

    def __init__(self, name, log=None, gone_at=None, answers=(), order=None):
        super().__init__(name, log, gone_at)
        self.answers, self.order, self.closed = dict(answers), order, False

    def stream(self, texts, language, num_candidates):
        self.running = self._answers(texts)  # held, so that only who closes it ends it
        return self.running

    def _answers(self, texts):
        try:
            for position in self.order or range(len(texts)):
                text = texts[position] if position < len(texts) else "?"
                answer = self.answers.get(text) if text in self.answers else self.translate([text], "xx", 1)[0]
                yield position, answer
        finally:
            self.closed = True


def given(answer):
    return [candidate.text for candidate in answer]


def partial(failure):
    return {who.name: given(found) for who, found in failure.answers}


def test_only_a_union_with_one_that_streams_streams():
    assert not isinstance(TranslatorUnion([Canned("a"), Canned("b")]), StreamingTranslator)
    union = TranslatorUnion([Canned("a"), Streaming("b")])
    assert isinstance(union, StreamingTranslator)
    assert isinstance(TranslatorUnion([union, Canned("c")]), StreamingTranslator)
    again = pickle.loads(pickle.dumps(union))
    assert again.stream.__self__ is again
    with pytest.raises(ValueError, match="chunk_size is 0"):
        TranslatorUnion([Canned("a")], chunk_size=0)


def test_streamed_answers_are_those_of_translate():
    union = TranslatorUnion([Canned("a"), Streaming("b", order=range(9, -1, -1)), Streaming("c")], chunk_size=3)
    found = list(union.stream(TEXTS, "xx", 2))
    assert sorted(position for position, _ in found) == list(range(10))
    whole = union.translate(TEXTS, "xx", 2)
    assert all(answer == whole[position] for position, answer in found)
    assert given(whole[4]) == ["a:t4", "b:t4"]
    assert list(TranslatorUnion([Streaming("b")]).stream([], "xx", 2)) == []
    with pytest.raises(ValueError, match="num_candidates is 0"):
        list(union.stream(TEXTS, "xx", 0))


def test_nothing_waits_for_the_whole():
    log = []
    slow, fast = Streaming("slow", log), Streaming("fast", log)
    stream = TranslatorUnion([Canned("chunk", log), fast, slow], chunk_size=4).stream(TEXTS, "xx", 3)
    position, answer = next(stream)
    assert (position, given(answer)) == (0, ["chunk:t0", "fast:t0", "slow:t0"])
    # Streams are begun before a chunk is translated, and none runs ahead of the slowest.
    assert log == [("fast", ["t0"]), ("slow", ["t0"]), ("chunk", ["t0", "t1", "t2", "t3"])]
    assert next(stream)[0] == 1
    assert [texts for name, texts in log if name == "fast"] == [["t0"], ["t1"]]
    assert [texts for name, texts in log if name == "chunk"] == [["t0", "t1", "t2", "t3"]]


def test_closing_closes_all():
    members = [Streaming("a"), Streaming("b"), Canned("c")]
    stream = TranslatorUnion(members).stream(TEXTS, "xx", 3)
    next(stream)
    assert not members[0].closed
    stream.close()
    assert members[0].closed
    assert members[1].closed


def test_a_failure_that_may_pass_leaves_the_text_to_be_asked_again_and_carries_what_came():
    union = TranslatorUnion([Canned("a"), Streaming("b", answers={"t1": TIMEOUT, "t2": REFUSED})])
    found = dict(union.stream(TEXTS[:3], "xx", 3))
    assert given(found[0]) == ["a:t0", "b:t0"]
    assert isinstance(found[1], PartialFailure)
    assert (found[1].reason, found[1].message) == ("timeout", "b: no answer within 1 second")
    assert not found[1].replied
    assert partial(found[1]) == {"a": ["a:t1"]}
    assert given(found[2]) == ["a:t2"]  # b replied; asking again would hardly help


def test_of_two_failures_the_one_that_may_pass_counts():
    first, second = Streaming("a", answers={"t0": REFUSED}), Streaming("b", answers={"t0": TIMEOUT})
    inner = TranslatorUnion([first, second, Canned("c")])
    answer = dict(TranslatorUnion([inner, Canned("d")]).stream(["t0"], "xx", 3))[0]
    assert (answer.reason, answer.replied) == ("timeout", False)
    assert partial(answer) == {"c": ["c:t0"], "d": ["d:t0"]}  # of the inner union's members, too
    empty = Streaming("e", answers={"t0": []})
    answer = dict(TranslatorUnion([first, empty]).stream(["t0"], "xx", 3))[0]
    assert (answer.reason, answer.replied) == ("refused", True)


@pytest.mark.parametrize("kind", [Streaming, Canned])
def test_when_one_is_gone_what_the_others_gave_is_handed_out(kind):
    other = Streaming("b", order=[1, 0, 3, 2, 4, 5, 6, 7, 8, 9])
    stream = TranslatorUnion([other, kind("a", gone_at="t2")], chunk_size=2).stream(TEXTS, "xx", 3)
    found = {}
    with pytest.raises(NoAnswerError, match="a is gone"):
        found.update(stream)
    assert given(found[0]) == ["b:t0", "a:t0"]
    assert given(found[1]) == ["b:t1", "a:t1"]
    assert partial(found[3]) == {"b": ["b:t3"]}
    assert "a gives no answers any more: a is gone" in found[3].message
    assert set(found) == {0, 1, 3}
    assert other.closed


def test_nothing_of_a_chunk_is_lost_when_another_is_gone():
    found = {}
    with pytest.raises(NoAnswerError, match="b is gone"):
        found.update(TranslatorUnion([Canned("a"), Streaming("b", gone_at="t1")], chunk_size=3).stream(TEXTS, "xx", 3))
    assert given(found[0]) == ["a:t0", "b:t0"]
    assert [partial(found[position]) for position in (1, 2)] == [{"a": ["a:t1"]}, {"a": ["a:t2"]}]
    assert set(found) == {0, 1, 2}


def test_gone_with_the_last_answer():
    class Last(Streaming):
        def stream(self, texts, language, num_candidates):
            yield from super().stream(texts, language, num_candidates)
            raise NoAnswerError("gone in the end")

    stream = TranslatorUnion([Last("a"), Canned("b")]).stream(["t0"], "xx", 3)
    assert given(next(stream)[1]) == ["a:t0", "b:t0"]
    with pytest.raises(NoAnswerError, match="in the end"):
        next(stream)


@pytest.mark.parametrize(
    ("order", "message"),
    [([0, 0, 1], "'b' gave an answer at 0; expected each of"), ([0, 5], "'b' gave an answer at 5"),
     ([0], "'b' gave 1 answers; expected one for each of 2 texts")],
)  # fmt: skip
def test_a_stream_that_miscounts(order, message):
    with pytest.raises(ValueError, match=message):
        list(TranslatorUnion([Canned("a"), Streaming("b", order=order)]).stream(["t0", "t1"], "xx", 3))


def test_a_chunk_that_miscounts():
    short = Canned("a")
    short.translate = lambda texts, language, num_candidates: [[]] * (len(texts) + 1)
    with pytest.raises(ValueError, match="'a' gave 3 answers; expected one for each of 2 texts"):
        list(TranslatorUnion([short, Streaming("b")], chunk_size=2).stream(["t0", "t1", "t2"], "xx", 3))


def test_a_store_is_filled_by_a_union_with_a_flaky_one(tmp_path):
    flaky = Streaming("b", answers={"t1": TIMEOUT, "t2": REFUSED})
    union = TranslatorUnion([Canned("a"), flaky])
    failures = []
    with CandidateStore(tmp_path / "s.sqlite") as store:
        assert fill_store(store, TEXTS[:3], "xx", union, progress=False, failures=failures) == 2
        assert [failure.reason for failure in failures] == ["timeout"]
        assert store.missing("xx", TEXTS[:3], union) == ["t1"]
        assert [c.text for c in store.get("xx", ["t2"])[0]] == ["a:t2"]
        flaky.answers = {}
        assert fill_store(store, TEXTS[:3], "xx", union, progress=False) == 1
        assert [c.text for c in store.get("xx", ["t1"], translator=union)[0]] == ["a:t1", "b:t1"]


def test_two_real_servers_are_asked_side_by_side_and_one_call_fails():
    begun, waited = threading.Event(), []

    def first(asked, number):
        if number:  # once it has begun, none of it waits for the other in vain
            waited.append(begun.wait(10))
        return json.dumps({"translations": [f"a:{asked.data['text']}"]})

    def second(asked, _):
        begun.set()
        text = asked.data["text"]
        return Answer("busy", 500) if text == "t3" else json.dumps({"translations": [f"b:{text}"]})

    with ChatServer(first) as one, ChatServer(second) as two:
        chats = [EndpointChat(server.url, server.url, concurrency=2, max_tries=1) for server in (one, two)]
        union = TranslatorUnion([*map(ChatTranslator, chats), Canned("c")])
        found = dict(union.stream(TEXTS[:8], "vi", 3))
        assert waited == [True] * 7
        failed = found.pop(3)
        assert (failed.reason, [given(answer) for _, answer in failed.answers]) == ("server", [["a:t3"], ["c:t3"]])
        assert all(given(answer) == [f"{who}:t{n}" for who in "abc"] for n, answer in found.items())
        stream = union.stream(TEXTS[:8], "vi", 3)
        next(stream)
        stream.close()
        assert "lira-chat" not in [thread.name for thread in threading.enumerate()]


def test_the_quickstarts_critic_streams_if_the_critic_does():
    class Judge:
        name = fingerprint = "j"

        def judge(self, texts, language, candidates):
            return [[None] * len(row) for row in candidates]

    class StreamingJudge(Judge):
        def stream(self, texts, language, candidates):
            yield from enumerate(self.judge(texts, language, candidates))

    assert not isinstance(_NamedCritic("n", "f", Judge()), StreamingCritic)
    named = _NamedCritic("n", "f", StreamingJudge())
    assert isinstance(named, StreamingCritic)
    assert list(named.stream(["t"], "xx", [["a", "b"]])) == [(0, [None, None])]


def test_what_the_others_gave_is_kept_until_the_text_is_asked_again(tmp_path):
    flaky = Streaming("b", answers={"t3": TIMEOUT})
    union = TranslatorUnion([Canned("a"), flaky])
    with CandidateStore(tmp_path / "store.sqlite") as store:
        fill_store(store, TEXTS, "ur", union, num_candidates=2, failures=(failures := []))
        assert len(failures) == 1
        assert store.missing("ur", TEXTS, union) == ["t3"]
        assert [one.text for one in store.get("ur", ["t3"])[0]] == ["a:t3"]
        flaky.answers.clear()
        fill_store(store, TEXTS, "ur", union, num_candidates=2)
        assert store.missing("ur", TEXTS, union) == []
        assert sorted(one.text for one in store.get("ur", ["t3"])[0]) == ["a:t3", "b:t3"]
