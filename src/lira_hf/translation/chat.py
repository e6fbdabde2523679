"""Chat models behind one protocol: an OpenAI-compatible endpoint, or a causal LM in this process (ours)."""

import asyncio
import logging
import os
import queue
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2

from .base import Failure, NoAnswerError, stable_hash


__all__ = ["ChatModel", "ChatUsage", "Conversation", "EndpointChat", "Reply"]

logger = logging.getLogger(__name__)

Conversation = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`"""

_SECRET = re.compile(r"key|token|secret|passw|auth|credential|^sig(nature)?$|^code$", re.IGNORECASE)
_SHOWN = 300  # characters of a server's words in a message
_RETRIED = frozenset({408, 425, 429}) | frozenset(range(500, 600)) - {501, 505}
# Statuses of a request that its text or form is to blame for: others may still go well.
_REJECTED = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What a chat model replied.

    Args:
        text (`str`): The reply, possibly empty.
        truncated (`bool`, *optional*, defaults to `False`): The limit of tokens cut it off.
        refused (`bool`, *optional*, defaults to `False`): The server says that the model, or a filter, refused.
        prompt_tokens (`int`, *optional*, defaults to 0): Tokens read, 0 where the server doesn't say.
        completion_tokens (`int`, *optional*, defaults to 0): Tokens written.
    """

    text: str
    truncated: bool = False
    refused: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class ChatUsage:
    """
    Counts of one language.

    Args:
        calls (`int`): Conversations that were asked.
        requests (`int`): What was sent for them, with every further try.
        prompt_tokens (`int`): Tokens read.
        completion_tokens (`int`): Tokens written.
        failures (`Counter[str]`): Calls that failed for good, by reason.
    """

    calls: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Reply | Failure) -> None:
        """Count a call's end."""
        self.calls += 1
        if isinstance(answer, Failure):
            self.failures[answer.reason] += 1
        else:
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens


@runtime_checkable
class ChatModel(Protocol):
    """
    Answers conversations.

    Attributes:
        name (`str`): Short name of the model.
        fingerprint (`str`): Short hash of what the replies depend on, the same in every process.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def answer(
        self, conversations: Sequence[Conversation], *, language: str = "", schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """
        Answer conversations, each reply handed out as it arrives.

        Args:
            conversations (`Sequence[Conversation]`): The conversations.
            language (`str`, *optional*, defaults to `""`): Language tag that the counts go to.
            schema (`Mapping[str, Any]`, *optional*): JSON schema that the model should keep to, where it can.

        Returns:
            `Iterator[tuple[int, Reply | Failure]]`: Each position once, with its reply or what went wrong.

        Raises:
            `NoAnswerError`: nobody answers; the replies that came were handed out before.
        """
        ...


class _Outcome(NamedTuple):
    """What one request brought, and whether another try may bring more."""

    answer: Reply | Failure
    again: bool = False
    status: int = 0


class EndpointChat:
    """
    A chat model behind any OpenAI-compatible endpoint: vLLM, TGI, llama.cpp, `transformers serve`, a provider (ours).

    Requests that fail with 408, 425, 429 or 5xx, a time-out or a broken connection are tried again, later each time,
    or when the server says so (`Retry-After`, for all calls at once). A call that fails for good gives a [`Failure`].
    The counts are in `usage`, by language.

    The requests are httpx2's own, which huggingface_hub's client is made of as well: that client sends the user's
    saved Hugging Face token to any address, turns a JSON schema into a form that vLLM doesn't read, and refuses even
    a server on the same machine under `HF_HUB_OFFLINE`.

    Args:
        base_url (`str`): Address of the server, such as `"http://localhost:8000/v1"`.
        model (`str`): The model's name as the server knows it.
        api_key_env (`str`, *optional*): Name of the environment variable that holds the key. The key itself is read
            for each call of `answer` and kept nowhere; without a name none is sent, not even a saved Hugging Face one.
        concurrency (`int`, *optional*, defaults to 8): The most requests under way at once.
        timeout (`float`, *optional*, defaults to 120): The most seconds for one request, from its start to its end.
        max_tries (`int`, *optional*, defaults to 5): The most requests for one call.
        backoff (`float`, *optional*, defaults to 1): Seconds before the second try, doubled with each, with jitter.
        max_wait (`float`, *optional*, defaults to 120): The longest wait before a try, in seconds. A server that asks
            for more isn't asked again.
        max_tokens (`int`, *optional*, defaults to 1024): The longest reply; `None` leaves it to the server.
        temperature (`float`, *optional*, defaults to 0): 0 is greedy; `None` leaves it to the server.
        extra_body (`Mapping[str, Any]`, *optional*): Further fields of the request, such as `{"seed": 1}`. They are
            part of the fingerprint, so no secrets.
        prices (`tuple[float, float]`, *optional*): Price of a million prompt and of a million completion tokens.
        give_up_after (`int`, *optional*): Calls in a row that the server left unanswered, each after all its tries,
            after which it counts as gone; by default the concurrency, but at least 8.

    Raises:
        `ValueError`: an address that isn't http(s) or holds a password or key, a variable that isn't set, a limit
            below 1.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_tries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        max_tokens: int | None = 1024,
        temperature: float | None = 0.0,
        extra_body: Mapping[str, Any] | None = None,
        prices: tuple[float, float] | None = None,
        give_up_after: int | None = None,
    ):
        self._url = _chat_url(base_url)
        self.base_url = urlunsplit(urlsplit(base_url)._replace(query="", fragment=""))  # fit to be shown
        self.model, self.api_key_env = model, api_key_env
        give_up_after = max(concurrency, 8) if give_up_after is None else give_up_after
        for name, value in (("concurrency", concurrency), ("max_tries", max_tries), ("give_up_after", give_up_after)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1; leave it out for the default")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}; expected seconds above 0; leave it out for the default")
        self.concurrency, self.timeout, self.max_tries = concurrency, timeout, max_tries
        self.backoff, self.max_wait, self.give_up_after = backoff, max_wait, give_up_after
        self.prices = prices
        self.usage: dict[str, ChatUsage] = {}
        settings = {"max_tokens": max_tokens, "temperature": temperature, **(extra_body or {})}
        self._settings = {name: value for name, value in settings.items() if value is not None}
        self._takes_schema = True
        self._resume_at = 0.0  # on the monotonic clock: no request before, since the server said so
        self._unanswered = 0
        self._key()

    @property
    def name(self) -> str:
        """The model's name, without the folders or the owner before it."""
        return self.model.rstrip("/").rpartition("/")[2]

    @property
    def fingerprint(self) -> str:
        """Hash of model and settings; not of the address, since a model moves from server to server."""
        return stable_hash("endpoint", self.model, self._settings)

    def __repr__(self) -> str:
        return f"EndpointChat({self.base_url!r}, {self.model!r}, api_key_env={self.api_key_env!r})"

    @property
    def cost(self) -> float | None:
        """What all tokens cost by `prices`; `None` without prices."""
        if self.prices is None:
            return None
        read = sum(usage.prompt_tokens for usage in self.usage.values())
        written = sum(usage.completion_tokens for usage in self.usage.values())
        return (read * self.prices[0] + written * self.prices[1]) / 1e6

    def answer(
        self, conversations: Sequence[Conversation], *, language: str = "", schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """
        Answer conversations; see [`ChatModel.answer`]. Closing the iterator ends the requests that are under way.

        Args:
            conversations (`Sequence[Conversation]`): The conversations.
            language (`str`, *optional*, defaults to `""`): Language tag that the counts go to.
            schema (`Mapping[str, Any]`, *optional*): JSON schema, sent as `response_format`. A server that rejects it
                is asked without, from then on.

        Returns:
            `Iterator[tuple[int, Reply | Failure]]`: Each position once, as the replies arrive.

        Raises:
            `NoAnswerError`: `give_up_after` calls in a row were left unanswered.
        """
        if not conversations:
            return
        # A loop in a thread of its own: the caller may have one running, as in a notebook, and calls go on while the
        # caller writes down what came.
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True, name="lira-chat")
        answers: queue.SimpleQueue[tuple[int, Reply | Failure] | None] = queue.SimpleQueue()
        thread.start()
        work = asyncio.run_coroutine_threadsafe(self._work(conversations, language, schema, answers), loop)
        work.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                yield answer
            work.result()
        finally:
            work.cancel()
            asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _work(
        self,
        conversations: Sequence[Conversation],
        language: str,
        schema: Mapping[str, Any] | None,
        answers: "queue.SimpleQueue[tuple[int, Reply | Failure] | None]",
    ) -> None:
        usage = self.usage.setdefault(language, ChatUsage())
        todo = iter(enumerate(conversations))  # shared by all workers
        key = self._key()

        async def work(client: httpx2.AsyncClient) -> None:
            for position, conversation in todo:
                answer = await self._call(client, key, conversation, schema, usage)
                usage.add(answer)
                answers.put((position, answer))
                self._check_alive(answer)

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=self.concurrency)
        # No redirects: the key and the texts go to the address that was given. httpx2's own limits are per step, and
        # a server that sends a byte now and then would outlast them; the whole request has one in _send.
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=self.timeout, follow_redirects=False
        ) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.concurrency, len(conversations)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _check_alive(self, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply) or answer.reason == "rejected":
            self._unanswered = 0
            return
        self._unanswered += 1
        if self._unanswered >= self.give_up_after:
            count, self._unanswered = self._unanswered, 0
            raise NoAnswerError(
                f"{self.base_url} left {count} calls in a row unanswered, the last one so: {answer.message}; expected "
                f"a server that answers for {self.model!r}; check address, model, key and that it runs, then start "
                "the same run again: what was answered before is kept"
            )

    async def _call(
        self,
        client: httpx2.AsyncClient,
        key: str | None,
        conversation: Conversation,
        schema: Mapping[str, Any] | None,
        usage: ChatUsage,
    ) -> Reply | Failure:
        body = {"model": self.model, "messages": [dict(message) for message in conversation], **self._settings}
        outcome = _Outcome(Failure("server", "not asked"))
        for attempt in range(self.max_tries):
            if attempt:
                await asyncio.sleep(min(self.backoff * 2 ** (attempt - 1), self.max_wait) * random.uniform(0.5, 1.0))
            with_schema = schema is not None and self._takes_schema
            full = {**body, "response_format": _response_format(schema)} if with_schema else body
            outcome = await self._send(client, key, full, usage)
            if with_schema and outcome.status in (400, 422):
                outcome = await self._send(client, key, body, usage)
                if isinstance(outcome.answer, Reply) and self._takes_schema:
                    self._takes_schema = False
                    logger.warning("%s rejects response_format; asked without it from now on", self.base_url)
            if not outcome.again:
                break
        return outcome.answer

    async def _send(
        self, client: httpx2.AsyncClient, key: str | None, body: Mapping[str, Any], usage: ChatUsage
    ) -> _Outcome:
        while (wait := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(wait + random.uniform(0.0, 0.1 * wait))
        usage.requests += 1
        try:
            async with asyncio.timeout(self.timeout):
                response = await client.post(self._url, json=body)
        except (TimeoutError, httpx2.TimeoutException):
            return _Outcome(Failure("timeout", f"no answer within {self.timeout:g} seconds"), again=True)
        except httpx2.HTTPError as error:
            message = _shown(f"{type(error).__name__}: {error}", key)
            return _Outcome(Failure("connection", message), again=isinstance(error, httpx2.TransportError))
        if response.status_code != 200:
            return self._refusal(response, key)
        try:
            return _Outcome(_read_reply(response.json()), status=200)
        except (ValueError, LookupError, TypeError, AttributeError):
            message = _shown(f"status 200, but no chat completion: {response.text}", key)
            return _Outcome(Failure("server", message), again=True, status=200)

    def _refusal(self, response: httpx2.Response, key: str | None) -> _Outcome:
        status = response.status_code
        message = _shown(f"status {status}: {response.text}", key)
        again = status in _RETRIED
        wait = _retry_after(response.headers.get("Retry-After", "")) if again else 0.0
        if wait > self.max_wait:
            message = f"{message} (to be asked again in {wait:.0f} seconds, above max_wait={self.max_wait:g})"
            again = False
        elif wait > 0:
            self._resume_at = max(self._resume_at, time.monotonic() + wait)
        if status == 429:
            reason = "rate limit"
        elif status in (401, 403):
            reason = "credentials"
        else:
            reason = "rejected" if status in _REJECTED else "server"
        return _Outcome(Failure(reason, message), again=again, status=status)

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(
                f"the environment variable {self.api_key_env!r} holds no key; expected one line of ASCII text; "
                "set it, or leave api_key_env out for a server without keys"
            )
        return key


async def _end_tasks() -> None:
    """Wait until all that was cancelled has ended, so that the loop closes without a word."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*others, return_exceptions=True)


def _chat_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        shown = re.sub(r"//[^/]*@", "//***@", base_url)
        raise ValueError(
            f"base_url is {shown!r}; expected an address such as 'http://localhost:8000/v1', without user or "
            "password; give a key by the environment variable that api_key_env names"
        )
    secret = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET.search(name)]
    if secret:  # the client's own log shows addresses
        raise ValueError(
            f"base_url has {', '.join(map(repr, secret))} in its query; expected an address without keys; give a key "
            "by the environment variable that api_key_env names"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        version = any(re.fullmatch(r"v\d\w*", segment) for segment in path.split("/"))
        path += "/chat/completions" if version else "/v1/chat/completions"
    return urlunsplit(parts._replace(path=path))


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _read_reply(body: Any) -> Reply:
    choice = body["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise TypeError("content isn't text")
    usage = body.get("usage") or {}
    return Reply(
        content or message.get("refusal") or "",
        truncated=finish == "length",
        refused=finish == "content_filter" or bool(message.get("refusal")),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )


def _shown(message: str, key: str | None) -> str:
    # Servers quote the key that they reject.
    message = message.replace(key, "***") if key else message
    return " ".join(message.split())[:_SHOWN]


def _retry_after(value: str) -> float:
    """Seconds of the header, a number or a date; 0 where it says nothing that can be read."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
