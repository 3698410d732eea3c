"""The one exception that users see as a single line, without a stack trace; and other errors in one line."""


class UserError(ValueError):
    """Bad input, configuration or resources: the text names the file or option, what is wrong, what to do."""


class FormatVersionError(UserError):
    """The file is whole, but of a format version that this program does not read."""


def one_line(error: BaseException) -> str:
    """The class and the text of an error, on one line; the class alone, where a foreign one cannot say its text."""
    try:
        text = str(error)
    except (Exception, SystemExit):  # noqa: BLE001 - its own code
        return type(error).__name__
    return " ".join(f"{type(error).__name__}: {text}".split())
