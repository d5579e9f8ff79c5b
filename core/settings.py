"""The only reader of the environment and of ratchet.toml.

A value comes from, first found wins: an argument, ``RATCHET_<NAME>`` in the environment, the TOML file named by
``RATCHET_CONFIG`` (else ``ratchet.toml`` in the working folder), the default below. All faults are reported at once.
"""

import contextlib
import hashlib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from core.errors import BadSettings
from core.masking.own import faults_of
from core.masking.policy import Policy

_SEPARATOR: Final = "\n"
T = TypeVar("T")


class Role(StrEnum):
    """What an API key may do; an operator may do everything."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    OPERATOR = "operator"


class ApiKey(BaseModel):
    """One caller of the HTTP API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, description="the name that records and logs show instead of the key")
    key: SecretStr = Field(min_length=16, description="the secret, sent as `Authorization: Bearer <key>`")
    roles: frozenset[Role] = Field(default=frozenset({Role.PREDICT, Role.FEEDBACK}))
    trusted: bool = Field(default=False, description="feedback of this key skips quarantine")


class Settings(BaseSettings):
    """Everything that can be set; the field names are the setting names."""

    model_config = SettingsConfigDict(env_prefix="RATCHET_", env_nested_delimiter=None, extra="forbid", frozen=True)

    # where things are
    home: Path = Field(default=Path(".ratchet"), description="folder that holds all local state")
    model: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="name of the model")
    task: Literal["text_classification"] = Field(default="text_classification", description="kind of task")
    base_model: str = Field(
        default="",
        description="local folder or hub id of the encoder to start from; empty: the MiniLM-L6 that travels as a package",
    )
    log_url: str = Field(
        default="",
        description="event log: `sqlite:///PATH` or `kafka://HOST:PORT[,HOST:PORT]`; empty: SQLite below `home`",
    )
    log_partitions: int = Field(default=6, ge=1, le=1024, description="partitions of a topic when it is created")
    examples_url: str = Field(
        default="", description="example store: an SQLAlchemy URL (SQLite, PostgreSQL); empty: SQLite below `home`"
    )
    registry_url: str = Field(
        default="", description="registry: `file:///PATH`, `s3://…`, `gs://…`, `az://…`; empty: a folder below `home`"
    )
    id_key: SecretStr | None = Field(
        default=None, description="key of the HMACs that name examples; empty: made once and kept below `home`"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")

    # masking
    masking: bool = Field(
        default=True, description="false: texts are written, and seen by new models, as they come, with personal data"
    )
    masking_patterns: dict[str, str] = Field(
        default={}, description="more to mask: regular expressions by the name that their placeholders get"
    )
    masking_recogniser: str = Field(
        default="", description="entry point of an installed recogniser that finds more to mask; empty: none"
    )

    # HTTP
    host: str = Field(default="127.0.0.1", description="address that the service listens on")
    port: int = Field(default=3000, ge=1, le=65535, description="port of the service")
    feedback_port: int = Field(default=3001, ge=0, le=65535, description="port of the consumer's /metrics; 0: none")
    trainer_port: int = Field(default=3002, ge=0, le=65535, description="port of the trainer's /metrics; 0: none")
    probe_host: str = Field(default="127.0.0.1", description="address that the two /metrics ports listen on")
    api_keys: tuple[ApiKey, ...] = Field(
        default=(), description="callers; none: loopback only, and the caller is trusted"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=("127.0.0.1", "localhost", "[::1]"), description="Host headers that are answered; `*` answers all"
    )
    max_request_bytes: int = Field(default=1_000_000, ge=1_000, description="a larger request body is answered 413")
    max_inputs: int = Field(default=256, ge=1, description="inputs that one request may hold")
    max_text_chars: int = Field(default=50_000, ge=1, description="characters that one text may have")
    request_timeout_s: float = Field(
        default=10.0, gt=0, description="a prediction not answered by then is answered 503"
    )
    idle_connection_s: float = Field(
        default=75.0, gt=0,
        description="a connection without a request is closed after that; longer than a load balancer in front keeps its own",
    )  # fmt: skip
    max_streams: int = Field(default=8, ge=1, description="bulk streams at once; more are answered 429")
    stream_window: int = Field(default=128, ge=1, description="lines of one stream that may be in flight")
    stream_idle_s: float = Field(
        default=60.0, gt=0, description="a stream whose client sends or takes nothing for so long is ended"
    )

    # serving
    max_tokens: int = Field(default=128, ge=8, le=8192, description="longer texts are cut to this many tokens")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where models run; auto: the GPU where there is one"
    )
    gpu_memory_bytes: int = Field(
        default=0, ge=0, description="GPU memory that each model in the service may allocate; 0: no limit"
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="processes of the service; one serves up to four cores best"
    )
    lanes: int = Field(
        default=0,
        ge=0,
        description="threads of a process that call the model; 0: its workers' share of the cores, or two on a GPU",
    )
    batch_tokens: int = Field(default=2048, ge=8, description="tokens, padding included, that one batch may hold")
    queue_wait_s: float = Field(
        default=2.0,
        gt=0,
        description="seconds that a text may have to wait for those before it; else it is answered 429",
    )
    queue_limit: int = Field(default=1024, ge=1, description="texts that may wait; more are answered 429")
    registry_poll_s: float = Field(default=0.25, gt=0, description="how often a newer promotion is looked for")
    swap_latency_ratio: float = Field(
        default=5.0, gt=0, description="time of one text that a new version may take, in the live version's"
    )
    trial_timeout_s: float = Field(
        default=30.0,
        ge=1,
        description="seconds that the trial of a version may take, without those in which it waits for a processor",
    )
    max_model_bytes: int = Field(
        default=0, ge=0, description="size that a served version's files may have; 0: what fits in memory"
    )
    audit_rate: float = Field(default=0.1, ge=0, le=1, description="share of predictions drawn for an audit")
    record_queue: int = Field(default=10_000, ge=1, description="prediction records that may wait for the log")
    outbox_max_bytes: int = Field(
        default=1_000_000_000, ge=1_000_000, description="size at which feedback is refused 503"
    )

    # feedback
    consumer_batch: int = Field(default=500, ge=1, le=5000, description="events handled in one transaction")
    join_timeout_s: float = Field(
        default=3600.0, gt=0, description="feedback without its prediction is unmatched after this"
    )
    min_text_chars: int = Field(default=1, ge=1, description="feedback on a shorter text, once cleaned, is rejected")
    boilerplate: tuple[str, ...] = Field(
        default=(),
        description="lines that are dropped from texts besides the known ones, such as a disclaimer of one's own",
    )
    allowed_scripts: tuple[str, ...] = Field(
        default=(),
        description="feedback on texts mostly in other scripts (`LATIN`, `HAN`, `CYRILLIC` …) is rejected; none: all",
    )
    closed_labels: bool = Field(default=False, description="true: a label that the model does not know is rejected")
    max_labels: int = Field(default=1000, ge=2, description="labels that a model may have")
    trust_threshold: float = Field(
        default=0.05, ge=0, le=1, description="an untrusted label less probable than this waits for a second source"
    )
    selection: str = Field(default="margin", description="strategy that scores new examples")
    selection_min_score: float = Field(
        default=0.1, ge=0, le=1, description="confirmed and implicit examples scored lower are not trained on as new"
    )
    review_selection: str = Field(
        default="combined", description="strategy that chooses the predictions which people are asked about"
    )
    review_pool: int = Field(
        default=2000, ge=0, le=20_000, description="predictions that may wait for a human answer; 0: no review queue"
    )
    review_budget: int = Field(
        default=0, ge=0, description="answers that the review queue asks for in 24 hours; 0: as many as are given"
    )
    review_random_share: float = Field(
        default=0.1, gt=0, le=1, description="share of the review queue drawn by lot: accuracy is estimated from it"
    )
    review_days: float = Field(default=7.0, gt=0, le=30, description="days that a prediction waits for an answer")
    implicit_weight: float = Field(
        default=0.3, ge=0, le=1, description="weight of an implicit signal against a correction"
    )
    pseudo_labels: bool = Field(
        default=False,
        description="true: confident answers that nobody judged are trained on, where examples speak for them",
    )
    pseudo_min_confidence: float = Field(default=0.95, gt=0, le=1, description="confidence that a pseudo-label needs")
    pseudo_neighbours: int = Field(default=5, ge=1, le=100, description="nearest examples that must have its label")
    pseudo_per_label: int = Field(default=20, ge=1, description="pseudo-labels that a label may have")
    pseudo_share: float = Field(
        default=0.1, ge=0, le=0.5, description="share of the examples that pseudo-labels may be"
    )
    pseudo_weight: float = Field(default=0.2, ge=0, le=1, description="weight of a pseudo-label against a correction")
    near_copies: int = Field(
        default=5, ge=1, description="texts that are nearly the same and have one label: so many of them train"
    )
    holdout_share: float = Field(default=0.15, ge=0, le=0.9, description="share of the examples that only judge")
    validation_share: float = Field(
        default=0.0, ge=0, le=0.9, description="share of the examples kept for tuning; nothing tunes on them yet"
    )

    # training
    trigger_count: int = Field(default=200, ge=1, description="new examples that start a run")
    trigger_age_s: float = Field(default=20.0, gt=0, description="age of the oldest new example that starts a run")
    method: str = Field(default="experience_replay", description="continual-learning method")
    replay_ratio: float = Field(default=1.0, ge=0, description="replayed examples for each new one")
    replay_minimum: int = Field(default=256, ge=0, description="replayed examples of a run, at least")
    epochs: int = Field(default=3, ge=1, description="passes over the training set of a run")
    run_examples: int = Field(default=4000, ge=1, description="new examples that one run fine-tunes on, at most")
    run_selection: str = Field(
        default="random", description="strategy that chooses them where there are more; random: each label in turn"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate of the encoder")
    batch_size: int = Field(default=16, ge=1, description="texts of one training step")
    seed: int = Field(default=0, ge=0, description="seed of everything random in training")
    precision: Literal["auto", "fp32", "int8"] = Field(
        default="auto", description="form of the graph that is served; auto: the fastest that passes, as measured"
    )
    train_threads: int = Field(default=0, ge=0, description="CPU threads of training; 0: all cores")
    lease_ttl_s: float = Field(default=30.0, gt=0, description="a trainer silent for so long loses its lease")
    gate_margin: float = Field(
        default=0.01, ge=0, le=1, description="holdout accuracy that a challenger may be short of the best"
    )
    gate_veto_margin: float = Field(
        default=0.02, ge=0, le=1, description="accuracy on held-out corrections that a challenger may lose"
    )
    gate_parity: float = Field(default=1e-3, gt=0, description="largest difference between torch's and ONNX's logits")
    gate_agreement: float = Field(
        default=0.97, ge=0, le=1, description="share of texts on which the served form must give fp32's answer"
    )
    gate_latency_ratio: float = Field(
        default=2.0, gt=0, description="latency that a challenger may need, in champion's"
    )
    rollback_hold_s: float = Field(
        default=0.0,
        ge=0,
        description="automatic promotion pauses so long after a rollback; 0: until an operator resumes it",
    )
    keep_versions: int = Field(default=5, ge=2, description="promoted versions whose files are kept")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        faults = []
        if not self.api_keys and not _is_loopback(self.host):
            faults.append(
                f"host is {self.host!r} but api_keys is empty: without keys only a loopback address is allowed; "
                "set api_keys, or host = '127.0.0.1'"
            )
        ids = [key.id for key in self.api_keys]
        if len(set(ids)) != len(ids):
            faults.append(f"api_keys: ids must differ, got {ids}")
        if self.holdout_share + self.validation_share >= 1:
            faults.append("holdout_share + validation_share must be below 1, or nothing is left to train on")
        if self.log_url and not self.log_url.startswith(("sqlite:///", "kafka://")):
            faults.append(f"log_url is {without_password(self.log_url)!r}; it must start with sqlite:/// or kafka://")
        faults += faults_of(self.masking_patterns)
        if faults:
            raise ValueError(_SEPARATOR.join(faults))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_file()))

    @property
    def masking_policy(self) -> Policy | None:
        """What is masked; None where nothing is."""
        if not self.masking:
            return None
        return Policy(patterns=self.masking_patterns, recogniser=self.masking_recogniser)

    @property
    def event_log_url(self) -> str:
        """``log_url``, or the embedded log below ``home``."""
        return self.log_url or f"sqlite:///{self.home.resolve() / 'log.db'}"

    @property
    def consumer(self) -> str:
        """The name under which the feedback program keeps its positions: of this model, in this log and no other.

        A log of another address is another log; read from its start, it repeats at most what the ledger knows already.
        """
        return f"feedback/{self.model}@{hashlib.sha256(self.event_log_url.encode()).hexdigest()[:8]}"

    @property
    def example_store_url(self) -> str:
        """``examples_url``, or the embedded store below ``home``."""
        return self.examples_url or f"sqlite:///{self.home.resolve() / 'examples.db'}"

    @property
    def registry_store_url(self) -> str:
        """``registry_url``, or a folder below ``home``."""
        return self.registry_url or (self.home.resolve() / "registry").as_uri()


def _config_file() -> Path:
    return Path(os.environ.get("RATCHET_CONFIG", "ratchet.toml"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: Any) -> Settings:
    """Read and check all settings.

    Raises:
        BadSettings: with one line for each fault.
    """
    named = os.environ.get("RATCHET_CONFIG")
    if named and not Path(named).is_file():
        raise BadSettings(f"RATCHET_CONFIG names {named!r}, which is not a file")
    faults = _unknown_environment()
    settings = None
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        faults += [fault for item in error.errors(include_url=False) for fault in _faults(dict(item))]
    except (ValueError, OSError) as error:  # an unreadable TOML file, or JSON in a variable
        faults.append(f"the settings cannot be read: {error}")
    if settings is None or faults:
        # not "from" the error: its text would show the secrets among the values
        raise BadSettings("the settings cannot work:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return settings


def _unknown_environment() -> list[str]:
    """A misspelt variable would otherwise be ignored in silence."""
    known = {f"RATCHET_{name}".upper() for name in Settings.model_fields} | {"RATCHET_CONFIG", "RATCHET_KEY"}
    unknown = sorted(name for name in os.environ if name.upper().startswith("RATCHET_") and name.upper() not in known)
    return [f"{name}: no such setting (see docs/settings.md)" for name in unknown]


def _faults(item: dict[str, Any]) -> list[str]:
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if not place:
        return message.split(_SEPARATOR)
    if item["type"] == "extra_forbidden":  # its value may be a secret under a misspelt name
        return [f"{place}: no such setting (see docs/settings.md)"]
    secret = place.startswith(("api_keys", "id_key"))
    shown = "" if secret else f" (got {without_password(repr(item['input']))})"
    return [f"{place}: {message}{shown}"]


def without_password(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    return re.sub(r"//[^/\s]*@", "//***@", url)


def entry(table: Mapping[str, T], name: str, what: str) -> T:
    """What a table of tasks, strategies or methods has under a name.

    Raises:
        BadSettings: nothing; it names what there is.
    """
    try:
        return table[name]
    except KeyError:
        raise BadSettings(f"no {what} {name!r}; there are: {', '.join(sorted(table))}") from None


def id_key(settings: Settings) -> bytes:
    """The key of the HMACs that name examples; made once below ``home`` when it is not set. Raises BadSettings."""
    if settings.id_key is not None and settings.id_key.get_secret_value():
        return settings.id_key.get_secret_value().encode()
    path = settings.home / "id.key"
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise BadSettings(f"{path} cannot be used: {error.strerror}; set another home, or RATCHET_ID_KEY") from error
    if not re.fullmatch(rb"[0-9a-f]{64}", key):
        raise BadSettings(f"{path} does not hold a key of 64 hex digits; restore it, or set RATCHET_ID_KEY")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: programs in containers that share the folder may have the same process number.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # another program was first: its key holds
        os.link(fresh, path)
    fresh.unlink()
