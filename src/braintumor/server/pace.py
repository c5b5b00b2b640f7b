"""Whether a client keeps up: how long it may be silent, and how slowly bytes may move."""

from braintumor.server.settings import Settings


class Pace:
    """The pace of one body or answer; time counts only while the client is waited for.

    A client is too slow that lets no byte move for `silent_seconds`, or in a window of `window_seconds` fewer than
    `slowest_bytes` a second. How much there is to move does not matter.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._silent = self._waited = 0.0
        self._moved = 0

    def keeps_up(self, moved: int, waited: float) -> bool:
        """Tell whether the client is fast enough, after so many more bytes in so many more seconds."""
        self._silent = 0.0 if moved else self._silent + waited
        self._waited += waited
        self._moved += moved
        if self._silent >= self._settings.silent_seconds:
            return False
        if self._waited < self._settings.window_seconds:
            return True
        enough = self._moved >= self._settings.slowest_bytes * self._waited
        self._waited, self._moved = 0.0, 0
        return enough
