"""What the commands say of an error."""

import errno


__all__ = ["message_of"]

_KNOWN = {
    errno.ENOENT: ("which isn't there", "a file or folder that is", "mend the path"),
    errno.EISDIR: ("which is a folder", "a file", "name one"),
    errno.ENOTDIR: ("part of which is a file", "a path through folders", "mend the path"),
    errno.EEXIST: ("which is a file", "a folder, or a new path", "name another one"),
}


def message_of(error: Exception) -> str:
    """
    An error's message. The operating system's own, which say neither what was expected nor what to do, are put into
    our words.
    """
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror  # ours, with a number before it
    other = (error.strerror, "a path that can be used", "mend its rights, or choose another")
    got, expected, fix = _KNOWN.get(error.errno, other)
    return f"got {str(error.filename)!r}, {got}; expected {expected}; {fix}"
