"""The ACL token: where it comes from, when it is read again, and how it stays out of every message."""

from pathlib import Path

from grayctl import log
from grayctl.errors import SettingsError
from grayctl.settings import ConsulSettings, Secret, read_token

_Stamp = tuple[int, int, int]


class Token:
    """The token in use. A file that changes is read again; a file that breaks leaves the last good token.

    Raises:
        SettingsError: from the constructor, when there is no usable token to begin with.
    """

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings
        self._stamp = self._look()
        self._value = _checked(read_token(settings))
        self._broken = False

    def current(self) -> Secret:
        """The token to send now; empty for none."""
        stamp = self._look()
        if stamp != self._stamp:
            self._read(stamp)
        return self._value

    def refused(self, sent: Secret) -> bool:
        """Read the file again because Consul refused `sent`; True when there is another token to try."""
        self._read(self._look())
        return self._value != sent

    def scrub(self, text: str) -> str:
        """`text` without the token, should somebody have echoed it."""
        return text.replace(str(self._value), "***") if self._value else text

    def _look(self) -> _Stamp | None:
        if not self._settings.token_file:
            return None
        try:
            found = Path(self._settings.token_file).stat()
        except OSError:
            return (0, 0, 0)  # a stamp like any other: the read that follows says what is wrong
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self, stamp: _Stamp | None) -> None:
        self._stamp = stamp
        try:
            self._value = read_token(self._settings) if self._settings.token_file else self._value
        except SettingsError as error:
            if not self._broken:
                log.get("consul").error("token_unreadable", error=str(error), note="the last good token stays in use")
            self._broken = True
        else:
            self._broken = False


def _checked(token: Secret) -> Secret:
    """Refuse what cannot stand in a header, before a library quotes it in a message."""
    if any(not 33 <= ord(letter) <= 126 for letter in token):  # noqa: PLR2004 -- printable ASCII
        raise SettingsError("CONSUL_HTTP_TOKEN: this is no token: it holds blanks or characters beyond ASCII")
    return token
