"""Errors that a user can act on."""

import errno
from collections.abc import Iterable

CANNOT_WRITE = "cannot be written ({}); make room, or write elsewhere with RASTUDY_ROOT=DIR; the same command goes on from here"
PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR}


class StudyError(ValueError):
    """Something the user gave cannot be used. The message names the value, and the allowed ones or the fix."""


def one_of(name: str, value: object, allowed: Iterable) -> None:
    """Raise StudyError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise StudyError(f"{name}={value!r} is unknown; use one of {', '.join(map(str, allowed))}")
