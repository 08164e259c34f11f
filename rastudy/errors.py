"""Errors that a user can act on."""

from collections.abc import Iterable


class StudyError(ValueError):
    """Something the user gave cannot be used. The message names the value, and the allowed ones or the fix."""


def one_of(name: str, value: object, allowed: Iterable) -> None:
    """Raise StudyError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise StudyError(f"{name}={value!r} is unknown; use one of {', '.join(map(str, allowed))}")
