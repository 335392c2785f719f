"""Logging: structlog, JSON under systemd and colours on a terminal; every change of state is one event."""

import logging
import os
import sys

import structlog

from grayctl.settings import LogSettings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get(component: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose events carry `component`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger
