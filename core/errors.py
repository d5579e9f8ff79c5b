"""The errors of Ratchet. A class's docstring is its message when none is given.

RatchetError
├── Retryable              back off and try again; nothing was lost
│   ├── LogUnavailable         the event log cannot be reached
│   ├── StoreUnavailable       the example store cannot be reached
│   ├── RegistryUnavailable    the registry cannot be reached
│   ├── TrialUnavailable       a version could not be tried before it is loaded
│   ├── NotDurable             the service's outbox cannot keep a record
│   ├── NotReady               no model is live yet
│   └── Overloaded             the queue is full
├── BadRecord              this one record can never succeed: dead-letter it, or answer 4xx
│   ├── MalformedEvent         not an event of ours
│   ├── UnsupportedSchema      an event of a newer schema: park it, a newer program will read it
│   ├── InvalidInput           inputs that the task cannot take
│   └── InvalidTarget          a target that the task cannot take
├── BundleError            a model version that must not be served
│   ├── CorruptBundle          a file is missing or differs from its digest
│   └── UnservableBundle       whole, but it does not do what its manifest says
├── Conflict               the state of the registry or a lease forbids it
│   ├── UnknownVersion         no such version
│   ├── VerdictVoid            the champion moved since the verdict
│   ├── PromotionsPaused       an operator or a rollback holds promotions
│   └── LeaseLost              another holder has taken over
└── BadSettings            the configuration cannot work: exit code 2
"""

import inspect


class RatchetError(Exception):
    """Something went wrong in Ratchet."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class Retryable(RatchetError):
    """A part that is needed is out of reach; try again later."""


class LogUnavailable(Retryable):
    """The event log cannot be reached."""


class StoreUnavailable(Retryable):
    """The example store cannot be reached."""


class RegistryUnavailable(Retryable):
    """The registry cannot be reached."""


class TrialUnavailable(Retryable):
    """The version could not be tried before it is loaded; try again later."""


class NotDurable(Retryable):
    """The record could not be made durable, so it is not accepted; send it again later."""


class NotReady(Retryable):
    """No model is live yet; wait until /readyz answers 200."""


class Overloaded(Retryable):
    """Too many requests are waiting; try again after a moment."""

    def __init__(self, message: str | None = None, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        #: seconds until what waits now is expected to be done
        self.retry_after_s = retry_after_s


class BadRecord(RatchetError):
    """This record can never be processed."""


class MalformedEvent(BadRecord):
    """The record is not a Ratchet event."""


class UnsupportedSchema(BadRecord):
    """The event was written by a newer Ratchet; upgrade this program to read it."""

    def __init__(self, message: str, *, schema_version: int) -> None:
        """Say what was found, and the version of records that a program must read."""
        super().__init__(message)
        self.schema_version = schema_version


class InvalidInput(BadRecord):
    """The inputs do not fit the task."""


class InvalidTarget(BadRecord):
    """The target does not fit the task."""


class BundleError(RatchetError):
    """This model version must not be served."""


class CorruptBundle(BundleError):
    """A file of the bundle is missing or is not the file that the manifest names."""


class UnservableBundle(BundleError):
    """The bundle is whole, but it does not do what its manifest says."""


class Conflict(RatchetError):
    """The present state does not allow this."""


class UnknownVersion(Conflict):
    """There is no such model version."""


class VerdictVoid(Conflict):
    """The champion moved since the verdict; judge again."""


class PromotionsPaused(Conflict):
    """Promotions are paused; resume them first."""


class LeaseLost(Conflict):
    """Another holder has taken the lease over."""


class BadSettings(RatchetError):
    """The settings cannot work."""
