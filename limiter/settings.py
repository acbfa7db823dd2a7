"""The service's settings: names, types, defaults, meanings, and where they come from.

A setting is, in falling precedence, an argument, an environment variable `LIMITER_<NAME>`, or a
line of an env file that the caller names; no file is read unasked. An unknown name in any of them
is an error, so that a misspelt one cannot be silently without effect.
It must not open, connect to or start anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from limiter import periods
from limiter.errors import StartupError
from limiter.models import HOLD_MS_MAX, HoldExpiry, OutagePolicy
from limiter.money import MICROS_MAX, div_ceil
from limiter.settings_values import Limits, Whole, WholeOrNone, did_you_mean
from limiter.urls import is_cluster_url, is_loopback, require_database_url, require_redis_url

ENV_PREFIX = "LIMITER_"

Auth = Literal["auto", "keys", "off"]
Durability = Literal["snapshot", "sync"]
LogFormat = Literal["text", "json"]
RateLimitHeaders = Literal["denials", "all"]
LogLevel = Literal["debug", "info", "warning", "error"]
UnknownWorkspaces = Literal["create", "deny"]
UnpricedModels = Literal["deny", "ceiling", "free"]

_CLUSTER_PARTITIONS_DEFAULT = 64
# With fewer, the nodes of a small cluster have very different shares.
_CLUSTER_PARTITIONS_MIN = 16

# A ledger row inside a live window must outlast it: the longest window plus the bucket it drags.
_RETENTION_DAYS_MIN = div_ceil(
    max(period.window_ms + period.bucket_ms for period in periods.PERIODS), periods.DAY_MS
)

# What Kubernetes puts into every pod next to a service that is named `limiter`.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP)")


class Settings(BaseSettings):
    """Everything that can be set. Immutable; secrets do not show in its repr or in errors.

    Raises pydantic's ValidationError for bad values and `StartupError` for unknown variables;
    `load_settings` turns both into one `StartupError` that is fit to be shown.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        # An env file may serve other programs too; ours are the names with the prefix.
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    host: str = Field(
        default="127.0.0.1",
        pattern=r"^\S+$",
        description="Address to listen on; `0.0.0.0` for all.",
    )
    port: Whole = Field(
        default=8080,
        ge=0,
        le=65_535,
        description="Port to listen on; 0 lets the system choose one.",
    )
    auth: Auth = Field(
        default="auto",
        description="Whether callers need a key: `keys` always, `off` never, `auto` unless the "
        "service listens on loopback only.",
    )
    workers: Whole = Field(default=1, ge=1, le=256, description="Service processes.")
    data_dir: Path = Field(
        default=Path("limiter-data"),
        description="Folder of the embedded Redis server and of SQLite; made when missing.",
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey: `redis://`, `rediss://` or `unix://`; a cluster: "
        "`redis+cluster://` or `rediss+cluster://` with some of its nodes. Absent: an embedded "
        "server is run in `data_dir`.",
    )
    redis_binary: Path | None = Field(
        default=None,
        description="Server program to run as the embedded one. Absent: the first found on `PATH`, "
        "then the one that was installed along.",
    )
    redis_deadline_ms: Whole = Field(
        default=250,
        ge=1,
        le=60_000,
        description="Longest a script call may take, the wait for a connection included.",
    )
    redis_connect_ms: Whole = Field(
        default=250, ge=1, le=60_000, description="Longest that connecting to Redis may take."
    )
    redis_connections: Whole = Field(
        default=64, ge=1, le=10_000, description="Most connections to Redis of one service process."
    )
    partitions: Whole = Field(
        default=1,
        ge=1,
        le=16_384,
        description="Hash tags that workspaces are spread over. In a cluster the default is 64, "
        "and 16 is the least.",
    )

    database_url: SecretStr | None = Field(
        default=None,
        description="Durable storage: `sqlite:///…`, `postgresql://` or `postgresql+psycopg://`. "
        "Absent: SQLite in `data_dir`.",
    )
    durability: Durability = Field(
        default="snapshot",
        description="When a record is acknowledged: once Redis has it (`snapshot`; durable one "
        "interval later) or once durable storage has it (`sync`).",
    )
    snapshot_interval_ms: Whole = Field(
        default=1_000,
        ge=1,
        le=3_600_000,
        description="Pause between two passes that move records from Redis to durable storage.",
    )
    drift_interval_ms: Whole = Field(
        default=5_000,
        ge=0,
        le=3_600_000,
        description="Pause between two comparisons of a workspace in Redis with durable storage; "
        "0: none is made.",
    )
    idempotency_ms: Whole = Field(
        default=3_600_000,
        ge=1,
        le=30 * periods.DAY_MS,
        description="How long Redis remembers the ids of requests, about 100 bytes each; the "
        "ledger remembers the ids of records as long as it keeps them.",
    )
    retention_days: Whole = Field(
        default=400,
        ge=_RETENTION_DAYS_MIN,
        le=36_500,
        description="How long the ledger keeps records; never less than the longest window.",
    )
    idle_workspace_ms: Whole = Field(
        default=0,
        ge=0,
        le=365 * periods.DAY_MS,
        description="How long a workspace without calls and holds stays in Redis; 0: for ever.",
    )

    outage_policy: OutagePolicy = Field(
        default="allow",
        description="What checks answer while Redis is away; a workspace may have its own.",
    )
    breaker_failures: Whole = Field(
        default=5,
        ge=1,
        le=1_000,
        description="Failed Redis calls in a row after which calls are answered by policy at once.",
    )
    breaker_reset_ms: Whole = Field(
        default=1_000,
        ge=1,
        le=3_600_000,
        description="How long until Redis is tried again after that.",
    )

    unknown_workspaces: UnknownWorkspaces = Field(
        default="create",
        description="What the first check or record of a workspace does: create it with the "
        "default limits, or be refused.",
    )
    default_limits: Limits = Field(
        default_factory=dict,
        description="Limits of new workspaces in micros by period, as JSON such as "
        '`{"hourly": 2000000}`; null or absent is unlimited, 0 blocks all.',
    )
    default_estimate_micros: Whole = Field(
        default=0,
        ge=0,
        le=MICROS_MAX,
        description="What a check holds that brings no estimate; a workspace may have its own.",
    )
    default_hold_ms: Whole = Field(
        default=600_000,
        ge=1,
        le=HOLD_MS_MAX,
        description="How long a hold lives whose check does not say.",
    )
    hold_ms_max: Whole = Field(
        default=HOLD_MS_MAX, ge=1, le=HOLD_MS_MAX, description="Longest that a check may hold for."
    )
    on_hold_expiry: HoldExpiry = Field(
        default="refund",
        description="What becomes of a hold that expires: given back or charged; a workspace may "
        "have its own.",
    )

    unpriced_models: UnpricedModels = Field(
        default="deny",
        description="What to do with token usage of a model without a price: refuse it, charge "
        "the ceilings, or charge nothing.",
    )
    ceiling_input_micros_per_million: WholeOrNone = Field(
        default=None,
        ge=1,
        le=MICROS_MAX,
        description="Price of a million input tokens of models without one. Needed by `ceiling`.",
    )
    ceiling_output_micros_per_million: WholeOrNone = Field(
        default=None,
        ge=1,
        le=MICROS_MAX,
        description="Price of a million output tokens of models without one. Needed by `ceiling`.",
    )

    body_bytes_max: Whole = Field(
        default=65_536, ge=1_024, le=16_777_216, description="Largest request body."
    )
    body_timeout_ms: Whole = Field(
        default=5_000, ge=1, le=60_000, description="Longest a request's body may take to arrive."
    )
    ratelimit_headers: RateLimitHeaders = Field(
        default="denials",
        description="Which answers to `/check` and `/record` have `RateLimit` headers: denials, or "
        "all of them, which costs each call a little.",
    )
    log_level: LogLevel = Field(
        default="info", description="Least severe messages that are logged."
    )
    log_format: LogFormat = Field(
        default="text", description="Lines for people, or one JSON object a line for programs."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level_in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_redis_url(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url_is_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_database_url(value.get_secret_value())
        return value

    @model_validator(mode="before")
    @classmethod
    def _a_cluster_has_more_partitions(cls, given: dict[str, Any]) -> dict[str, Any]:
        is_cluster = _is_cluster(given.get("redis_url"))
        return {"partitions": _CLUSTER_PARTITIONS_DEFAULT, **given} if is_cluster else given

    @model_validator(mode="after")
    def _fields_agree(self) -> Settings:
        if self.default_hold_ms > self.hold_ms_max:
            raise ValueError("default_hold_ms is above hold_ms_max")
        ceilings = (self.ceiling_input_micros_per_million, self.ceiling_output_micros_per_million)
        if self.unpriced_models == "ceiling" and None in ceilings:
            raise ValueError(
                "unpriced_models=ceiling needs ceiling_input_micros_per_million and "
                "ceiling_output_micros_per_million"
            )
        if self.partitions < _CLUSTER_PARTITIONS_MIN and _is_cluster(self.redis_url):
            raise ValueError(
                f"partitions is below {_CLUSTER_PARTITIONS_MIN}, too few for the nodes of a cluster"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    @property
    def demands_keys(self) -> bool:
        """Whether callers need a key."""
        return self.auth == "keys" or (self.auth == "auto" and not self.is_local)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, env file; the latter two checked for unknown names."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                _refuse_unknown_variables(source.env_vars)
        return init_settings, env_settings, dotenv_settings


def load_settings(
    options: Mapping[str, Any] | None = None, *, env_file: Path | None = None
) -> Settings:
    """The settings from `options` (by field name), the environment and `env_file`.

    Raises `StartupError` with a line for each thing that is wrong, naming the variable and never
    its value.
    """
    if env_file is not None and not env_file.is_file():
        raise StartupError(f"there is no env file {str(env_file)!r}")
    # Keyword arguments with a leading underscore would steer pydantic-settings itself.
    unknown = [name for name in options or {} if name not in Settings.model_fields]
    if unknown:
        nearest = did_you_mean(unknown[0], Settings.model_fields)
        raise StartupError(f"there is no setting {unknown[0]!r}{nearest}")
    try:
        return Settings(**{"_env_file": env_file, **(options or {})})
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            variable = ENV_PREFIX + str(problem["loc"][0]).upper() if problem["loc"] else "settings"
            lines.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
        raise StartupError("\n".join(lines)) from None


def _is_cluster(redis_url: object) -> bool:
    text = redis_url.get_secret_value() if isinstance(redis_url, SecretStr) else redis_url
    return isinstance(text, str) and is_cluster_url(text)


def _refuse_unknown_variables(variables: Mapping[str, str | None]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    present = {
        name.upper().removeprefix(ENV_PREFIX)
        for name in variables
        if name.upper().startswith(ENV_PREFIX)
    }
    lines = [
        f"there is no setting {ENV_PREFIX}{name[:80]}{did_you_mean(name, known, ENV_PREFIX)}"
        for name in sorted(present - known)
    ]
    if any(_SERVICE_LINK.match(name) for name in present):
        lines.append(
            "these look like the service links of Kubernetes: set enableServiceLinks: false, or "
            "give the service another name than limiter"
        )
    if lines:
        raise StartupError("\n".join(lines))
