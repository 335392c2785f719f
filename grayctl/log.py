"""Logging: structlog, JSON under systemd and colours on a terminal; every change of state is one event."""

import contextlib
import logging
import os
import sys

import structlog

from grayctl.settings import LogSettings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _StandardError:
    """Writes events to standard error. One that it cannot take is lost: its disk is full, or its reader is gone."""

    def msg(self, line: str) -> None:
        # no event is worth the process that tells it, and there is nowhere else to say so
        with contextlib.suppress(OSError):
            rest = f"{line}\n".encode("utf-8", "backslashreplace")
            # past sys.stderr's buffer: what stays in there is tried again at the end, and makes the exit code 120
            while rest:
                rest = rest[os.write(sys.stderr.fileno(), rest) :]

    debug = info = warning = error = critical = msg


def configure(settings: LogSettings) -> None:
    """Set up structlog for this process; events go to standard error.

    `auto` means JSON where systemd's journal reads standard error (JOURNAL_STREAM is set) or where standard
    error is no terminal, and colours otherwise (none with NO_COLOR).
    """
    plain = settings.format == "json" or (
        settings.format == "auto" and ("JOURNAL_STREAM" in os.environ or not sys.stderr.isatty())
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if plain
        else structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ and sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: _StandardError(),
        cache_logger_on_first_use=True,
    )


def get(component: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose events carry `component`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger
