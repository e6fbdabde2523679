"""From a base LM and two encoders to a chat in Bengali and Urdu: translate, join, train both stages by recipe, chat.

As it stands it takes Qwen/Qwen3-0.6B, BAAI/bge-m3, BAAI/bge-base-en-v1.5 and, to translate, an NLLB model, and trains
on the two dozen questions below: enough to see each step work, not to learn a language. `--data` takes conversations
of your own. Started again it goes on where it was: each step leaves what it made in the output folder.
"""

import argparse
import json
import logging
from pathlib import Path

import yaml
from transformers import AutoModelForCausalLM, AutoProcessor

from lira_hf import CandidateSource, LiraGenerator
from lira_hf.data import Conversation, read_chat
from lira_hf.inference import stored_critic
from lira_hf.training import train_recipe
from lira_hf.translation import (
    CandidateStore,
    ConsensusCritic,
    Seq2SeqTranslator,
    TranslationMemory,
    Translator,
    fill_store,
)


logger = logging.getLogger("chat_any_base")

# Question in English, in Bengali and in Urdu, and the answer.
QUESTIONS = [
    ("What is two and three?", "দুই আর তিনে কত হয়?", "دو اور تین کتنے ہوتے ہیں؟", "Five."),
    ("What is the capital of Bangladesh?", "বাংলাদেশের রাজধানী কী?", "بنگلہ دیش کا دارالحکومت کیا ہے؟", "Dhaka."),
    ("How many days are in a week?", "এক সপ্তাহে কত দিন?", "ایک ہفتے میں کتنے دن ہوتے ہیں؟", "Seven."),
    ("What colour is the sky?", "আকাশের রং কী?", "آسمان کا رنگ کیا ہے؟", "Blue."),
    ("Is the sun or the moon bigger?", "সূর্য আর চাঁদের মধ্যে কোনটি বড়?", "سورج اور چاند میں کون بڑا ہے؟", "The sun."),
    ("What do cows give?", "গরু কী দেয়?", "گائے کیا دیتی ہے؟", "Milk."),
    ("How many months are in a year?", "এক বছরে কত মাস?", "ایک سال میں کتنے مہینے ہوتے ہیں؟", "Twelve."),
    ("Where do fish live?", "মাছ কোথায় থাকে?", "مچھلی کہاں رہتی ہے؟", "In water."),
    ("Which animal barks?", "কোন প্রাণী ঘেউ ঘেউ করে?", "کون سا جانور بھونکتا ہے؟", "A dog."),
    ("What is ten minus four?", "দশ থেকে চার বাদ দিলে কত থাকে?", "دس میں سے چار نکالیں تو کتنے بچتے ہیں؟", "Six."),
    ("What do we drink when we are thirsty?", "তৃষ্ণা পেলে আমরা কী পান করি?", "پیاس لگے تو ہم کیا پیتے ہیں؟", "Water."),
    ("What is the opposite of hot?", "গরমের বিপরীত কী?", "گرم کا الٹ کیا ہے؟", "Cold."),
]

LANGUAGES = ("bn", "ur")
HELD_OUT = 2  # of the questions, to chat about at the end
SLIM = {"backbones_saved": False}  # a checkpoint holds what was trained, and the names of the rest
CONFIG = {"num_bins": 8, "encoder_pooling": "cls", "anchor_pooling": "cls", "languages": [*LANGUAGES, "en"]}


def write_conversations(folder: Path) -> None:
    """The questions above as conversations, a JSON object a line, as anybody's own data would come."""
    for split, rows in (("train", QUESTIONS[:-HELD_OUT]), ("dev", QUESTIONS[-HELD_OUT:])):
        lines = []
        for english, *foreign, answer in rows:
            for language, question in zip(LANGUAGES, foreign, strict=True):
                turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                record = {"messages": turns, "language": language, "reference": english}
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def question_of(conversation: Conversation) -> str:
    """The last thing that the user says."""
    turns = [turn["content"] for turn in conversation.messages or [] if turn["role"] == "user"]
    return turns[-1] if turns else conversation.text or conversation.prompt or ""


def make_translator(name: str, conversations: list[Conversation]) -> Translator:
    """An encoder-decoder by name or folder, or, by the name "memory", what the training data itself knows."""
    if name != "memory":
        return Seq2SeqTranslator.from_pretrained(name)
    known = [
        (one.language, question_of(one), one.reference) for one in conversations if one.language and one.reference
    ]
    return TranslationMemory.fit(known)


def translate(
    store: CandidateStore, translator: Translator, conversations: list[Conversation], candidates: int
) -> None:
    """Candidates of every question into the store, each judged by how far it agrees with the others."""
    for language in sorted({one.language for one in conversations if one.language not in (None, "en")}):
        questions = [question_of(one) for one in conversations if one.language == language]
        done = fill_store(store, questions, language, translator, ConsensusCritic(), num_candidates=candidates)
        logger.info("%s: %d questions translated now", language, done)


def stages(arguments: argparse.Namespace, data: Path) -> dict[str, dict]:
    """The recipes: Arca; the soft prefix warmed up against the English references; the answers, end to end."""
    out = arguments.output
    shared = {
        "task": "generation",
        "data": str(data),
        "dev_split": "",
        "store": str(out / "candidates.sqlite"),
        "critic": "consensus",
        "num_candidates": arguments.candidates,
        "features": str(out / "features"),  # the encoders read each text once
        "max_steps": arguments.steps,
        "save_steps": 100,
        "save_total_limit": 1,
        "eval_strategy": "no",
        "report_to": "none",
    }
    encoders = {"encoder": arguments.encoder, "anchor": arguments.anchor}
    arca = {
        **encoders,
        "config": CONFIG | SLIM,
        "stage": "arca",
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 64,
    }
    lasr = {"stage": "lasr", "config": SLIM}
    warm = {"model": str(out / "arca"), "base": arguments.base, **lasr, "generation_loss": "reference"}
    chat = {"model": str(out / "warm"), **lasr, "generation_loss": "answer"}
    recipes = {
        "arca": arca,
        "warm": {**warm, "learning_rate": 1e-3, "per_device_train_batch_size": 16},
        "chat": {**chat, "learning_rate": 1e-4, "per_device_train_batch_size": 8},
    }
    return {name: {**recipe, **shared, "output_dir": str(out / name)} for name, recipe in recipes.items()}


def train(arguments: argparse.Namespace, data: Path) -> None:
    """Every stage by its recipe, which is kept: `lira train OUTPUT/chat.yaml` does the same."""
    for name, recipe in stages(arguments, data).items():
        path = arguments.output / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
        if not (arguments.output / name / "config.json").is_file():
            logger.info("stage %s", name)
            train_recipe(path, quiet=True)


def chat(arguments: argparse.Namespace, conversations: list[Conversation]) -> None:
    """Questions that nobody trained on, answered by the checkpoint as anybody would load it."""
    out = arguments.output
    model = AutoModelForCausalLM.from_pretrained(out / "chat")
    processor = AutoProcessor.from_pretrained(out / "chat")
    with CandidateStore(out / "candidates.sqlite", read_only=True) as store:
        source = CandidateSource(store, critic=stored_critic(store, "consensus"), num_candidates=arguments.candidates)
        # Qwen3's template knows `enable_thinking`; the others don't mind.
        generator = LiraGenerator(model, processor, source, template={"enable_thinking": False})
        questions, languages = [question_of(one) for one in conversations], [one.language for one in conversations]
        options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False}
        answers = generator.generate(questions, languages, **options)
        alone = generator.generate(questions, languages, prefix=False, **options)
    for question, answer, base in zip(questions, answers, alone, strict=True):
        logger.info("%s\n  LiRA: %s\n  the base LM alone: %s", question, answer.strip(), base.strip())
    logger.info("go on with: lira generate %s --interactive --language bn --no-thinking", out / "chat")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="Qwen/Qwen3-0.6B", help="name or folder of the base LM")
    parser.add_argument("--encoder", default="BAAI/bge-m3", help="of the multilingual encoder")
    parser.add_argument("--anchor", default="BAAI/bge-base-en-v1.5", help="of the English encoder")
    parser.add_argument(
        "--translator",
        default="facebook/nllb-200-distilled-600M",
        help="of an encoder-decoder; 'memory' finds the nearest question of the training data instead",
    )
    parser.add_argument(
        "--data", type=Path, help="folder with train.jsonl and dev.jsonl: messages, language, reference"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/chat-any-base"))
    parser.add_argument("--steps", type=int, default=200, help="of each stage")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    data = arguments.data or arguments.output / "data"
    if arguments.data is None:
        write_conversations(data)
    known, dev = read_chat(data / "train.jsonl"), read_chat(data / "dev.jsonl")
    with CandidateStore(arguments.output / "candidates.sqlite") as store:
        translate(store, make_translator(arguments.translator, known), [*known, *dev], arguments.candidates)
    train(arguments, data)
    chat(arguments, dev)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
