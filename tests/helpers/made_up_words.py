"""A dozen English words, and made-up languages of them."""

WORDS = ["red", "green", "blue", "river", "house", "mountain", "open", "close", "print", "file", "window", "moon"]


def foreign(text: str, language: str) -> str:
    """A made-up translation: each word backwards, with the language's ending."""
    return " ".join(word[::-1] + language[0] for word in text.split())
