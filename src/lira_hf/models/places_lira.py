"""Where models are loaded from: what is said of a place that has none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


__all__ = ["loading"]


@contextmanager
def loading(place: str | os.PathLike) -> Iterator[None]:
    """
    Names the place in the library's errors, which leave it out, and speak of the connection or of the form of names
    where a folder was mistyped.

    Args:
        place (`str` or `os.PathLike`): A folder, or a name on the Hub.

    Raises:
        OSError: As it came where the folder is there.
    """
    try:
        yield
    except OSError as error:
        if os.path.isdir(place):
            raise
        raise OSError(
            f"got {os.fspath(place)!r}, which is no folder here, nor came from the Hub ({error}); expected "
            "the folder of a model, or its name on the Hub; mend the path or the name"
        ) from error
