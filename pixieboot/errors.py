"""Whose fault it is: the operator's (OperatorError) or the peer's (WireError).  Any other exception is a bug of ours."""

from collections.abc import Sequence


class OperatorError(Exception):
    """Input of the operator that cannot be used: `where: what. How to mend it.`

    where is FILE:LINE, a flag or an environment variable; what is a clause without a full stop; mend is whole sentences.
    The command line prints it and exits with 2; the API answers it as JSON; there is never a traceback.
    """

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}. {mend}")
        self.where, self.what, self.mend = where, what, mend


class Faults(Exception):
    """Several faults of one input, found in one pass, so that the operator mends all of them at once.  Never empty."""

    def __init__(self, faults: Sequence[OperatorError]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class WireError(Exception):
    """A datagram or request that breaks its protocol: counted, logged once, and never answered with more than it deserves."""
