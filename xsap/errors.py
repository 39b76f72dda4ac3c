"""The kinds of mistake that a user can mend.

Every one is raised with a single line that says what must hold, what was found, where, and what to do. The doors print that line
and exit with code 2; anything else that escapes is a defect of ours and shows its traceback.
"""


class XsapError(Exception):
    """A mistake in what xsap was given; the message is one line for its user, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class ConfigError(XsapError):
    """A setting or an argument that can't be used."""


class DataError(XsapError):
    """A file of names, concepts, pairs or mentions that is not what it must be."""


class ArtifactError(XsapError):
    """A folder made by xsap that is missing, damaged, or does not fit another one."""
