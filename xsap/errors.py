"""Exceptions for user errors, and the hint that an error about an unknown name ends with.

Each exception carries one line: what must hold, what was found, where, and what to do. The command-line programs print that line and exit
with code 2; any other exception is a bug and shows its traceback.
"""

import difflib
from collections.abc import Callable, Iterable


class XsapError(Exception):
    """Base of all user errors. The message is always one line: line breaks in quoted input become spaces."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class ConfigError(XsapError):
    """An invalid setting, option or argument."""


class DataError(XsapError):
    """An input file of names, concepts, pairs or mentions that is missing or malformed."""


class RerankerError(XsapError):
    """A re-ranker of the user's own that does not answer, or with something else than scores."""


class ArtifactError(XsapError):
    """A folder made by xsap that is missing, damaged, of another format, or does not match another one."""


def did_you_mean(
    text: str, choices: Iterable[str], *, otherwise: str = "", show: Callable[[str], str] = "'{}'".format
) -> str:
    """The end of an error message about an unknown name: the most similar known name, if there is one.

    Args:
        text: The unknown name; upper and lower case are not distinguished.
        choices: The known names.
        otherwise: The end of the message when no known name is similar, such as a list of all of them.
        show: How to write the name that is suggested; in quotes by default.

    Returns:
        `; did you mean 'name'?`, or `; ` and `otherwise`, or nothing.
    """
    by_folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(text.strip().casefold(), by_folded, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {show(by_folded[near[0]])}?"
    return f"; {otherwise}" if otherwise else ""
