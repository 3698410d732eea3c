"""The one exception that users see as a single line, without a stack trace; and other errors in one line."""


class UserError(ValueError):
    """Bad input, configuration or resources: the text names the file or option, what is wrong, what to do."""


class FormatVersionError(UserError):
    """The file is whole, but of a format version that this program does not read."""


def one_line(error: Exception) -> str:
    """The class and the text of an error, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
