"""Errors that a user can act on."""

import errno
import os
from collections.abc import Iterable

CANNOT_WRITE = "cannot be written ({}); make room, or write elsewhere with RASTUDY_ROOT=DIR; the same command goes on from here"
# what only writing meets; EEXIST, ENOTDIR: a file where a folder is to be made
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


class StudyError(ValueError):
    """Something the user gave cannot be used. The message names the value, and the allowed ones or the fix."""


class NothingToShow(StudyError):
    """A figure's runs have not been made: of a part of the grid that is normal. The message says how to make them."""


def one_of(name: str, value: object, allowed: Iterable) -> None:
    """Raise StudyError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise StudyError(f"{name}={value!r} is unknown; use one of {', '.join(map(str, allowed))}")


def all_differ(what: str, names: Iterable[str], step: str) -> None:
    """Raise StudyError with the next step where two of some things would have one name."""
    names = list(names)
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), ""):
        raise StudyError(f"two {what} would both be called {twice!r}; {step}")


def agree(what: str, found: object, **asked: object) -> None:
    """Raise StudyError where something asked for is not what was found; ``-1`` and an empty text ask for nothing.

    Args:
        what: the subject and verb of the message.
        found: has an attribute of each name.
    """
    for name, value in asked.items():
        if value not in ("", -1, getattr(found, name)):
            raise StudyError(f"{what} with {name}={getattr(found, name)!r}, not {value!r}; leave {name} out")


def told(error: OSError) -> str:
    """What the system refused, of which file, with a next step where there is one."""
    said = error.strerror or str(error)
    if error.errno in _WRITING:
        return f"{_named(error)}{CANNOT_WRITE.format(said)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{_named(error)}{said}; change its permissions, or name another place (RASTUDY_ROOT=DIR for what is written)"
    return f"{_named(error)}{said}"


def _named(error: OSError) -> str:
    return f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
