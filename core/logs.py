"""Structured logs: one JSON object a line on standard error, with the program's name and the ids at hand.

Libraries log through :mod:`logging`; their warnings and errors come out the same way.
"""

import logging
import sys

import structlog
from structlog.types import EventDict, FilteringBoundLogger, Processor

from core.masking import Masker, Policy

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_KEPT = frozenset({"IP"})  # of our own servers: what an operator looks for here


def configure_logs(*, program: str, level: str, masking: Policy | None = None) -> None:
    """Set up the logs of this process; called once by its main function.

    Args:
        program: the name that each line carries.
        level: the least that is logged.
        masking: how what errors say is masked, as it may quote a text; None: not at all.

    Raises:
        BadSettings: the policy cannot be kept.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _naming(program),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = [
        structlog.processors.format_exc_info,
        _masking(Masker.of(masking, keep=_KEPT)),
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setLevel(logging.WARNING)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.root.handlers = [libraries]


def _naming(program: str) -> Processor:
    """Context variables would do, but threads do not inherit them."""

    def add_program(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.setdefault("program", program)
        return event

    return add_program


def _masking(masker: Masker) -> Processor:
    """Errors of libraries may quote what they were given."""

    def mask(_logger: object, _method: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if isinstance(value, str) and name != "timestamp":
                event[name] = masker.mask(value)
        return event

    return mask


def get_logger() -> FilteringBoundLogger:
    """The logger; ``log.info("swapped", version=…)``."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger
