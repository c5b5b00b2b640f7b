"""Decide whether a client is fast enough: how long it may be silent, and how slowly bytes may move."""

from braintumor.server.settings import Settings


class Pace:
    """The pace of one body or response; only time in which the server waits for the client counts.

    A client is too slow if no byte moves for `silent_seconds`, or fewer than `slowest_bytes` a second in a window of
    `window_seconds`. There is no limit on the whole: a large upload may take as long as its size asks for, but a client
    that drips bytes cannot hold a connection for ever.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._silent = self._waited = 0.0
        self._moved = 0

    def keeps_up(self, moved: int, waited: float) -> bool:
        """Tell whether the client is fast enough, after `moved` more bytes in `waited` more seconds."""
        self._silent = 0.0 if moved else self._silent + waited
        self._waited += waited
        self._moved += moved
        if self._silent >= self._settings.silent_seconds:
            return False
        if self._waited < self._settings.window_seconds:
            return True
        # windows follow one another: what a client sent fast in one does not pay for silence in the next
        enough = self._moved >= self._settings.slowest_bytes * self._waited
        self._waited, self._moved = 0.0, 0
        return enough
