"""The one exception that kseg raises for what its user can mend."""

from __future__ import annotations


class KsegError(ValueError):
    """A wrong input: the message is one line that names it and the way out."""
