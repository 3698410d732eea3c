"""Where units run, as far as the job itself opens, watches and closes it. Here: not at all."""


class Place:
    """The base of `LocalPool` and `DaskCluster`.

    Attributes:
        failure: the first error of a unit, if the place keeps it from Beam, which would print its trace.
    """

    failure: Exception | None = None

    def options(self, units: int) -> list[str]:
        """Beam's options for it and a number of units."""
        return []

    def check(self) -> None:
        """See that units can go on; called now and then.

        Raises:
            UserError: they cannot.
        """

    def explained(self, error: Exception) -> Exception:
        """An error of the place's own library in words; any other as it is."""
        return error

    def logs(self) -> str:
        """What its workers logged last, one line each."""
        return ""

    def kill(self) -> None:
        """End it now; what its units had not committed is lost and will be redone."""

    def close(self) -> None:
        """End it."""
