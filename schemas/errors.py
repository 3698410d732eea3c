"""The one exception that users see as a single line, without a stack trace."""


class UserError(ValueError):
    """Bad input, configuration or resources: the text names the file or option, what is wrong, what to do."""


class FormatVersionError(UserError):
    """The file is whole, but of a format version that this program does not read."""
