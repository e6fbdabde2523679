"""LiRA in lm-eval (EleutherAI's harness): `lira` among its models, with both roads read from each request (ours).

`python -m lira_hf.integrations.lm_eval --model lira ...` is lm-eval's own command line with the model registered.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor

from lira_hf.data import language_name, normalize_language
from lira_hf.inference import CandidateSource, LiraGenerator, cut_at_stop, make_source
from lira_hf.inference.generator import stop_options
from lira_hf.models import LiraForCausalLM, LiraProcessor
from lira_hf.models.prompt_lira import expand_prefix
from lira_hf.translation import clean_text


try:
    import lm_eval.models  # noqa: F401  # its own models are listed only while nobody else's is
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import apply_template, get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError(
        f"lm-eval can't be imported ({error}); expected it for this adapter; pip install 'lira-hf[lm-eval]'"
    ) from error


__all__ = ["LiraLM"]

logger = logging.getLogger(__name__)

_LANGUAGE_FIELDS = ("lang", "language")
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_LONGEST = 2048  # where neither the base's configuration nor the caller says


@dataclass(frozen=True, slots=True)
class _Row:
    """A request as tokens: the prompt with its placeholders, and what both roads read of it."""

    context: list[int]
    continuation: list[int]
    text: str | None
    language: str | None


@register_model("lira")
class LiraLM(TemplateLM):
    """
    A LiRA checkpoint as lm-eval's model `lira`.

    What both roads read of a request is, by default, the last user turn where a chat template is applied, and the last
    question otherwise: what follows the last blank line of the context. `text` names it exactly, which few-shot
    prompts with labels ("Question: ...") call for, and candidates of a store, which are found by the very text. The
    soft prefix goes to the start of that turn or question.

    `loglikelihood_rolling` has no question, and reading the text itself through the roads would tell what is to be
    predicted: it is the base LM alone.

    Args:
        pretrained (`str` or [`LiraForCausalLM`]): A checkpoint, by name or folder, or a live model.
        processor ([`LiraProcessor`], *optional*): Of a live model.
        language (`str` or `dict`, *optional*): Tag of the texts; a `dict` has one of each task's name. `None`: the
            document's `lang` or `language`, else the last part of the task's name, such as `mgsm_direct_bn`, where it
            is one of the languages that the model was trained on or, if it names none, any with a name in CLDR.
        text (`str`, *optional*): What both roads read: a field of the document, such as `question`, or a Jinja
            template, such as `{{question.stem}}`.
        store, translator, critic (`str`, *optional*): Candidate store; folder of a saved translator; folder of a saved
            heuristic critic, or NAME[:FINGERPRINT] of one in the store.
        candidates (`int`, *optional*, defaults to 5): Most candidates of a text.
        candidate_source ([`CandidateSource`], *optional*): A live source, in place of these.
        prefix (`bool`, *optional*, defaults to `True`): `False` measures the base LM alone on the same prompts.
        batch_size (`int`, *optional*, defaults to 8): Requests in one pass; `"auto"` is 8.
        max_batch_size (`int`, *optional*): Unused; lm-eval hands it to every model.
        device, dtype (`str`, *optional*): Of the model. The GPU where there is one.
        max_length (`int`, *optional*): Most tokens of prompt and answer, soft prefix included; by default what the
            base's configuration says. Longer prompts lose their start.
        max_gen_toks (`int`, *optional*, defaults to 256): Most tokens of an answer where the task doesn't say.

    Raises:
        ValueError: For another checkpoint, or a live model without its processor.

    Example:

    ```python
    >>> import lm_eval
    >>> from lira_hf.integrations.lm_eval import LiraLM
    >>> lm = LiraLM("checkpoint", text="question", store="candidates.sqlite")
    >>> lm_eval.simple_evaluate(lm, tasks=["mgsm_direct_bn"])
    ```
    """

    def __init__(
        self,
        pretrained: str | LiraForCausalLM,
        processor: LiraProcessor | None = None,
        language: str | dict[str, str] | None = None,
        text: str | None = None,
        store: str | None = None,
        translator: str | None = None,
        critic: str | None = None,
        candidates: int = 5,
        candidate_source: CandidateSource | None = None,
        prefix: bool = True,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
    ):
        super().__init__()
        model, processor = _load(pretrained, processor, dtype)
        if device is not None or isinstance(pretrained, str):
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        source = candidate_source or make_source(store, translator, critic, candidates)
        self.generator = LiraGenerator(model, processor, source, chat=False)
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.language = language if isinstance(language, dict) else language and _tag(language)
        self.text, self.prefix = text, prefix
        self.batch_size = 8 if isinstance(batch_size, str) and batch_size.startswith("auto") else int(batch_size)
        self.max_gen_toks = max_gen_toks
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = max_length or limit or _LONGEST
        self._device = model.device
        self._languages: dict[str, str | None] = {}
        self._told: set[str] = set()

    # What lm-eval asks of a model

    @property
    def eot_token_id(self) -> int:
        """The base's end of text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the base's start of text. Not LiRA's placeholder."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of the base LM."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer(clean_text(string), **special)["input_ids"]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt, in which the placeholder stands at the start of the last user turn."""
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return self.processor.chat_prompt(chat_history, **options)[1]

    @torch.no_grad()
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after soft prefix and context, and whether it is the greedy one."""
        rows = [self._row(request, *request.args) for request in requests]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        for places, scores in self._scored(rows, disable_tqdm):
            for place, score in zip(places, scores, strict=True):
                found[place] = score
                self.cache_hook.add_partial("loglikelihood", requests[place].args, score)
        return found

    @torch.no_grad()
    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, by the base LM alone."""
        rows, owner = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            sizes = {"prefix_token": self.prefix_token_id, "max_seq_len": self.max_length - 1, "context_len": 1}
            for window in get_rolling_token_windows(tokens, **sizes):
                rows.append(_Row(*map(list, make_disjoint_window(window)), None, None))
                owner.append(number)
        totals = [0.0] * len(requests)
        for places, scores in self._scored(rows, disable_tqdm):
            for place, (score, _) in zip(places, scores, strict=True):
                totals[owner[place]] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after soft prefix and context, up to the first stop string."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        found = [""] * len(requests)
        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as bar:
            for numbers in groups.values():
                stop, options = self._generation(requests[numbers[0]].args[1])
                room = self.max_length - options["max_new_tokens"]
                rows = [self._row(requests[number], requests[number].args[0], "", room) for number in numbers]
                for places in self._batches(rows):
                    for place, answer in zip(
                        places, self._answers([rows[p] for p in places], stop, options), strict=True
                    ):
                        number = numbers[place]
                        found[number] = answer
                        self.cache_hook.add_partial("generate_until", requests[number].args, answer)
                    bar.update(len(places))
        return found

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs: Any) -> list:
        """Of requests that are tokens already and name no question: the base LM alone."""
        found: list[Any] = [None] * len(requests)
        rows = [_Row(list(context), list(continuation), None, None) for _, context, continuation in requests]
        for places, scores in self._scored(rows, disable_tqdm):
            for place, score in zip(places, scores, strict=True):
                found[place] = score
        return found

    def get_model_info(self) -> dict[str, Any]:
        """For the results file: what was measured."""
        return {"lira_prefix": self.prefix, "lira_text": self.text, "lira_languages": dict(self._languages)}

    # From a request to tokens and a text

    def _row(self, request: Instance, context: str, continuation: str, room: int | None = None) -> _Row:
        mark = self.processor.prefix_token
        text, head, tail = self._question(context, request.doc)
        if not self.prefix or not context.strip():
            text, marked = None, head + tail
        else:
            marked = f"{head}{mark}{tail}"
        if continuation:
            asked, new = (
                self._encode_pair(marked, continuation) if marked else ([], self.tok_encode(continuation, False))
            )
        else:
            asked, new = self.tok_encode(marked), []
        asked = asked or [self.prefix_token_id]
        if text is not None:
            asked = expand_prefix(asked, self.processor.prefix_token_id, self.processor.prefix_length)
        room = (self.max_length if room is None else room) - len(new)
        language = None if text is None else self._language(request)
        return _Row(self._cut(asked, room), new, text, language)

    def _question(self, context: str, doc: Any) -> tuple[str, str, str]:
        """What both roads read, and the context before and after the place of the soft prefix."""
        mark = self.processor.prefix_token
        head, found, tail = context.rpartition(mark)
        if found:
            end = self._turn_end
            text = (tail[: tail.index(end)] if end and end in tail else tail).strip()
            return text if self.text is None else self._field(doc), head.replace(mark, ""), tail
        start = context.rstrip().rfind("\n\n")
        place = 0 if start < 0 else start + 2
        text = context[place:].strip()
        if self.text is not None:
            text = self._field(doc)
            if text and (own := context.rfind(text)) >= 0:
                place = own
        return text, context[:place], context[place:]

    @cached_property
    def _turn_end(self) -> str:
        """What a chat template puts behind what the user said."""
        said, answered = "lira-user-turn", "lira-assistant-turn"
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
        asked = self.processor.chat_prompt(turns[:1])[1]
        whole = self.processor.chat_prompt(turns, add_generation_prompt=False)[1]
        return commonprefix([prompt.partition(said)[2] for prompt in (asked, whole)])

    def _field(self, doc: Any) -> str:
        if "{{" in str(self.text):
            return apply_template(self.text, doc).strip()
        if not isinstance(doc, dict) or not isinstance(doc.get(self.text), str):
            there = sorted(map(str, doc)) if isinstance(doc, dict) else type(doc).__name__
            raise ValueError(
                f"got text={self.text!r}, and a document with {there}; expected a field that holds a text, or a "
                "template such as '{{question}}'; name another"
            )
        return doc[self.text].strip()

    def _language(self, request: Instance) -> str | None:
        task = str(request.task_name)
        if isinstance(self.language, str):
            self._languages[task] = self.language
        elif isinstance(self.language, dict):
            self._languages[task] = _tag(self.language[task]) if task in self.language else None
        else:
            named = request.doc if isinstance(request.doc, dict) else {}
            given = next((named[name] for name in _LANGUAGE_FIELDS if isinstance(named.get(name), str)), None)
            self._languages[task] = self._known(given) or self._known(task.replace("-", "_").rpartition("_")[2])
        tag = self._languages[task]
        if tag is None and task not in self._told:
            logger.warning("the language of task %s isn't known; no candidates are looked for; pass language=", task)
        elif task not in self._told:
            logger.info("task %s is in %s", task, tag)
        self._told.add(task)
        return tag

    def _known(self, tag: str | None) -> str | None:
        """A tag that may be meant: of the model's languages, or, if it names none, of any with a name in CLDR."""
        try:
            normal = _tag(tag or "")
        except ValueError:
            return None
        own = {*self.processor.trained_languages, *self.processor.anchor_languages}
        if self.processor.trained_languages:
            return normal if normal in own else None
        return normal if normal in own or language_name(normal) != normal else None

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """The last tokens that there is room for; the placeholders stay."""
        if len(ids) <= room:
            return ids
        token, count = self.processor.prefix_token_id, ids.count(self.processor.prefix_token_id)
        if room <= count:
            raise ValueError(
                f"got room for {room} tokens of the prompt; expected more than the soft prefix's {count}; raise "
                "max_length, or lower max_gen_toks"
            )
        if "cut" not in self._told:
            logger.warning("prompts longer than %d tokens lose their start; raise max_length if you can", room)
            self._told.add("cut")
        if not count:
            return ids[-room:]
        place, budget = ids.index(token), room - count
        head, tail = ids[:place], ids[place + count :]
        tail = tail[-budget:]
        head = head[len(head) - min(len(head), budget - len(tail)) :]
        return [*head, *[token] * count, *tail]

    # From tokens to answers

    def _batches(self, rows: Sequence[_Row]) -> list[list[int]]:
        """Rows with and without a text apart, and rows of like length together."""
        order = sorted(
            range(len(rows)),
            key=lambda row: (rows[row].text is None, len(rows[row].context) + len(rows[row].continuation)),
            reverse=True,
        )
        batches: list[list[int]] = []
        for row in order:
            if not batches or len(batches[-1]) == self.batch_size or _apart(rows[batches[-1][0]], rows[row]):
                batches.append([])
            batches[-1].append(row)
        return batches

    def _roads(self, rows: Sequence[_Row]) -> dict[str, torch.Tensor]:
        """Both roads' tensors of rows that have a text."""
        texts, tags = [row.text or "" for row in rows], [row.language for row in rows]
        found = self.generator.find_candidates(texts, tags)
        return dict(self.processor(texts, prompts=False, languages=tags if any(tags) else None, **found))

    def _padded(self, rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        padded = self.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
        return {name: padded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def _scored(self, rows: Sequence[_Row], quiet: bool) -> Iterator[tuple[list[int], list[tuple[float, bool]]]]:
        with tqdm(total=len(rows), desc="loglikelihood", disable=quiet) as bar:
            for places in self._batches(rows):
                yield places, self._likelihood([rows[place] for place in places])
                bar.update(len(places))

    def _likelihood(self, rows: list[_Row]) -> list[tuple[float, bool]]:
        tokens = self._padded([row.context + row.continuation for row in rows])
        # Padded on the left, so that all continuations are at the end; only there scores are needed.
        keep = max(len(row.continuation) for row in rows) + 1
        output = self.model(**tokens, **self._prefix(rows, tokens["input_ids"]), use_cache=False)
        logits = output.logits[:, -keep:-1].float()
        scores, best = logits.log_softmax(-1), logits.clone()
        if self.processor.prefix_token_id < best.shape[-1]:
            best[..., self.processor.prefix_token_id] = -torch.inf  # which `generate` never writes
        greedy, found = best.argmax(-1).cpu(), []
        for number, row in enumerate(rows):
            count = len(row.continuation)
            new = torch.tensor(row.continuation, dtype=torch.long)
            if not count:
                found.append((0.0, True))
                continue
            own = scores[number, -count:].cpu().gather(-1, new.unsqueeze(-1)).sum()
            found.append((float(own), bool((greedy[number, -count:] == new).all())))
        return found

    def _prefix(self, rows: list[_Row], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The soft prefix of each row, computed once a text: the choices of a question share it."""
        if rows[0].text is None:
            return {}
        first: dict[tuple[str | None, str | None], int] = {}
        for number, row in enumerate(rows):
            first.setdefault((row.text, row.language), number)
        chosen = list(first.values())
        order = {key: place for place, key in enumerate(first)}
        roads = {name: value.to(ids.device) for name, value in self._roads([rows[n] for n in chosen]).items()}
        found = self.model.find_prefix(ids[chosen], **roads)
        places = torch.tensor([order[row.text, row.language] for row in rows], device=ids.device)
        return {name: found[name][places] for name in ("prefix_embeds", "prefix_mask")}

    def _answers(self, rows: list[_Row], stop: list[str], options: dict[str, Any]) -> list[str]:
        batch = self._padded([row.context for row in rows])
        roads = self._roads(rows) if rows[0].text is not None else {}
        roads = {name: value.to(self.model.device) for name, value in roads.items()}
        ends = stop_options(stop, self.model, self.tokenizer, batch["input_ids"].shape[1])
        options = {"pad_token_id": self.tokenizer.pad_token_id} | options | ends
        sequences = self.model.generate(**batch, **roads, **options)
        return [cut_at_stop(text, stop) for text in self.processor.decode_new(sequences, batch)]

    def _generation(self, given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Stop strings, and options of `generate`; greedy unless a task samples."""
        options = dict(given)
        until = options.pop("until", None) or []
        stop = [until] if isinstance(until, str) else list(until)
        lengths = [options.pop(name, None) for name in _LENGTH_NAMES]
        most = next((length for length in lengths if length is not None), self.max_gen_toks)
        options["do_sample"] = bool(options.get("do_sample", False) or (options.get("temperature") or 0) > 0)
        if given.get("do_sample") is False or not options["do_sample"]:
            options["do_sample"] = False
            for name in ("temperature", "top_p", "top_k"):
                options.pop(name, None)
        return stop, {"max_new_tokens": int(most)} | options


def _apart(one: _Row, other: _Row) -> bool:
    return (one.text is None) != (other.text is None)


def _tag(language: str) -> str:
    return normalize_language(language)


def _load(
    pretrained: str | LiraForCausalLM, processor: LiraProcessor | None, dtype: str | None
) -> tuple[LiraForCausalLM, LiraProcessor]:
    if not isinstance(pretrained, str):
        if processor is None:
            raise ValueError("got a live model without its processor; expected both; pass processor=")
        return pretrained, processor
    model = AutoModelForCausalLM.from_pretrained(pretrained, **({} if dtype is None else {"dtype": dtype}))
    if not isinstance(model, LiraForCausalLM):
        raise ValueError(
            f"{pretrained} holds a {type(model).__name__}; expected a LiRA checkpoint with a base LM; name its "
            "folder, or use lm-eval's own model 'hf'"
        )
    return model, processor or AutoProcessor.from_pretrained(pretrained)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
