"""Every foreign error and every status of Consul becomes one of our exceptions, here and nowhere else.

A message names the address, what was asked, what went wrong and what to do. It never holds a header, a query
string or a token: foreign exceptions are described, not chained, since their text and their attributes may.
"""

import ssl
from collections.abc import Mapping

from grayctl.consul.wire import CannotConnectError, CutOffError
from grayctl.errors import (
    ConsulDenied,
    ConsulError,
    ConsulOverloaded,
    ConsulProtocolError,
    ConsulTooLarge,
    ConsulUnavailable,
    ConsulUnreachable,
)

OK, ACLS_OFF, NOT_FOUND, CONFLICT = 200, 401, 404, 409
_DENIED, _TOO_LARGE, _TOO_MANY, _SERVER = (401, 403), 413, 429, 500
_BODY = 200


def of_transport(error: Exception, address: str, what: str) -> ConsulError:
    """What wire.py, ssl or the socket raised while asking `address` for `what`."""
    where = f"Consul at {address}: {what}"
    match error:
        case TimeoutError():
            return ConsulUnreachable(f"{where}: no answer in time. Is the agent alive, and can it reach its servers?")
        case ssl.SSLError():
            return ConsulUnreachable(
                f"{where}: the TLS handshake failed: {_tls_reason(error)}. "
                "Check consul.ca_file, cert_file, key_file and tls_server_name"
            )
        case CannotConnectError():
            return ConsulUnreachable(f"{where}: cannot connect: {error}. Is consul.address right, and the agent up?")
        case CutOffError(begun=True):
            return ConsulUnreachable(f"{where}: the connection was closed in the middle of the answer")
        case OSError():
            return ConsulUnreachable(
                f"{where}: the connection was closed without an answer. If this goes on, the agent's limit "
                "limits.http_max_conns_per_client may be reached"
            )
        case _:
            return ConsulProtocolError(
                f"{where}: this is no HTTP answer ({type(error).__name__}). Is consul.address an agent's HTTP port?"
            )


def of_status(status: int, body: str, address: str, what: str) -> ConsulError:
    """An answer with a status that `what` cannot have."""
    said = " ".join(body[:_BODY].split())
    where = f"Consul at {address}: {what}: {status}{f' {said}' if said else ''}"
    if status in _DENIED:
        return ConsulDenied(f"{where}. The token is unknown or lacks a right: check consul.token_file and its policies")
    if status == _TOO_LARGE:
        return ConsulTooLarge(f"{where}. Make it smaller, or raise the agent's limit that it names")
    if status == _TOO_MANY:
        return ConsulOverloaded(f"{where}. The agent's connection or rate limit is reached")
    if status >= _SERVER:
        return ConsulUnavailable(f"{where}. Look at the agent's log")
    return ConsulProtocolError(f"{where}. This was not expected from Consul; is something else listening there?")


def index_of(headers: Mapping[bytes, bytes], address: str, what: str) -> int:
    """The answer's `X-Consul-Index`.

    Raises:
        ConsulProtocolError: when it is missing, no number, or below 1.
    """
    text = headers.get(b"x-consul-index", b"")
    if not (text.isdigit() and int(text) >= 1):
        wrong = "is missing" if not text else "is no number from 1 up"  # not shown: it may echo anything
        raise ConsulProtocolError(f"Consul at {address}: {what}: X-Consul-Index {wrong}. Is something else there?")
    return int(text)


def _tls_reason(error: ssl.SSLError) -> str:
    return str(getattr(error, "verify_message", "") or error.reason or type(error).__name__)
