"""Errors that a user can act on."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable

CANNOT_WRITE = "cannot be written ({}); make room, or write elsewhere with RASTUDY_ROOT=DIR; the same command goes on from here"
PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR}


class StudyError(ValueError):
    """Something the user gave cannot be used. The message names the value, and the allowed ones or the fix."""


def one_of(name: str, value: object, allowed: Iterable) -> None:
    """Raise StudyError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise StudyError(f"{name}={value!r} is unknown; use one of {', '.join(map(str, allowed))}")


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make a command's ``main`` end with a message and exit status 2 where it raises StudyError, without a traceback."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except StudyError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.errno not in PLACE:
                raise
            print(f"error: {CANNOT_WRITE.format(error)}", file=sys.stderr)
            return 2

    return run
