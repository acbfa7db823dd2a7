"""Settings: defaults, sources, strictness, and that secrets stay secret."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from limiter import periods
from limiter.errors import StartupError
from limiter.models import HOLD_MS_MAX
from limiter.money import MICROS_MAX
from limiter.settings import Settings, load_settings
from limiter.settings_text import describe, settings_reference

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"
REGENERATE = (
    "python -c 'from limiter.settings_text import settings_reference as page; "
    'print(page(), end="")\' '
    "> docs/reference/settings.md"
)
SECRET = "hunter2"

INTEGER_FIELDS = sorted(
    name
    for name, schema in Settings.model_json_schema()["properties"].items()
    if "integer" in (schema.get("type"), *(any_of["type"] for any_of in schema.get("anyOf", ())))
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LIMITER_"):
            monkeypatch.delenv(name)


# -------------------------------------------------------------------------------------- defaults


def test_defaults() -> None:
    assert load_settings().model_dump() == {
        "host": "127.0.0.1",
        "port": 8080,
        "auth": "auto",
        "workers": 1,
        "data_dir": Path("limiter-data"),
        "redis_url": None,
        "redis_binary": None,
        "redis_deadline_ms": 250,
        "redis_connect_ms": 250,
        "redis_connections": 64,
        "partitions": 1,
        "database_url": None,
        "durability": "snapshot",
        "snapshot_interval_ms": 1_000,
        "drift_interval_ms": 5_000,
        "idempotency_ms": 3_600_000,
        "retention_days": 400,
        "idle_workspace_ms": 0,
        "outage_policy": "allow",
        "breaker_failures": 5,
        "breaker_reset_ms": 1_000,
        "unknown_workspaces": "create",
        "default_limits": {"hourly": None, "daily": None, "weekly": None, "monthly": None},
        "default_estimate_micros": 0,
        "default_hold_ms": 600_000,
        "hold_ms_max": 86_400_000,
        "on_hold_expiry": "refund",
        "unpriced_models": "deny",
        "ceiling_input_micros_per_million": None,
        "ceiling_output_micros_per_million": None,
        "body_bytes_max": 65_536,
        "body_timeout_ms": 5_000,
        "ratelimit_headers": "denials",
        "log_level": "info",
        "log_format": "text",
    }


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1


# --------------------------------------------------------------------------------------- sources


def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, str] = {
        "host": "::1",
        "port": "1234",
        "auth": "keys",
        "workers": "2",
        "data_dir": "elsewhere",
        "redis_url": "rediss://redis.example:6380/1",
        "redis_binary": "/opt/valkey-server",
        "redis_deadline_ms": "100",
        "redis_connect_ms": "90",
        "redis_connections": "8",
        "partitions": "64",
        "database_url": "postgresql://limiter@db.example/limiter",
        "durability": "sync",
        "snapshot_interval_ms": "500",
        "drift_interval_ms": "7000",
        "idempotency_ms": "60000",
        "retention_days": "90",
        "idle_workspace_ms": "60000",
        "outage_policy": "deny",
        "breaker_failures": "3",
        "breaker_reset_ms": "200",
        "unknown_workspaces": "deny",
        "default_limits": '{"hourly": 2000000}',
        "default_estimate_micros": "1000",
        "default_hold_ms": "1000",
        "hold_ms_max": "2000",
        "on_hold_expiry": "charge",
        "unpriced_models": "ceiling",
        "ceiling_input_micros_per_million": "3000000",
        "ceiling_output_micros_per_million": "15000000",
        "body_bytes_max": "2048",
        "body_timeout_ms": "1000",
        "ratelimit_headers": "all",
        "log_level": "debug",
        "log_format": "json",
    }
    assert values.keys() == Settings.model_fields.keys()
    for name, value in values.items():
        monkeypatch.setenv(f"LIMITER_{name.upper()}", value)
    from_variables = load_settings()
    monkeypatch.undo()
    assert from_variables == load_settings(values)
    defaults = load_settings()
    for name in values:
        assert getattr(from_variables, name) != getattr(defaults, name), name


def test_an_option_wins_over_a_variable_and_that_over_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env_file = tmp_path / "limiter.env"
    env_file.write_text("LIMITER_PORT=1\nLIMITER_WORKERS=1\nLIMITER_PARTITIONS=11\n")
    monkeypatch.setenv("LIMITER_PORT", "2")
    monkeypatch.setenv("LIMITER_WORKERS", "2")
    settings = load_settings({"port": 3}, env_file=env_file)
    assert (settings.port, settings.workers, settings.partitions) == (3, 2, 11)


def test_an_option_of_none_overrides_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_REDIS_URL", "redis://redis.example")
    assert load_settings({"redis_url": None}).redis_url is None


def test_a_variable_set_to_nothing_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_REDIS_URL", "")
    monkeypatch.setenv("LIMITER_PORT", "")
    assert load_settings() == Settings()
    assert load_settings().port == 8080


def test_no_file_is_read_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LIMITER_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().port == 8080


def test_an_env_file_may_serve_other_programs_too(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("POSTGRES_PASSWORD=x\nPORT=1\nLIMITER_WORKERS=2\n")
    settings = load_settings(env_file=env_file)
    assert (settings.port, settings.workers) == (8080, 2)


def test_an_env_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no env file"):
        load_settings(env_file=tmp_path / "absent.env")


# ----------------------------------------------------------------------------------- misspelling


def test_a_misspelt_variable_is_an_error_that_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIMITER_REDIS_ULR", f"redis://:{SECRET}@host")
    with pytest.raises(StartupError) as error:
        load_settings()
    assert str(error.value) == (
        "there is no setting LIMITER_REDIS_ULR; did you mean LIMITER_REDIS_URL?"
    )
    # The constructor is as strict as the loader.
    with pytest.raises(StartupError, match="LIMITER_REDIS_URL"):
        Settings()


def test_every_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_PROT", "1")
    monkeypatch.setenv("LIMITER_XYZZY", "1")
    with pytest.raises(StartupError) as error:
        load_settings()
    assert str(error.value).splitlines() == [
        "there is no setting LIMITER_PROT; did you mean LIMITER_PORT?",
        "there is no setting LIMITER_XYZZY",
    ]


def test_a_misspelt_name_in_the_env_file_is_an_error(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("LIMITER_WORKER=2\n")
    with pytest.raises(StartupError, match="did you mean LIMITER_WORKERS"):
        load_settings(env_file=env_file)


def test_a_misspelt_option_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(StartupError, match="no setting 'worker'; did you mean workers"):
        load_settings({"worker": 2})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings(worker=2)  # type: ignore[call-arg]


def test_options_cannot_steer_the_loader(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no setting '_env_file'"):
        load_settings({"_env_file": tmp_path})


def test_variables_of_other_programs_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITERX", "1")
    monkeypatch.setenv("MY_LIMITER_PORT", "1")
    assert load_settings() == Settings()


def test_kubernetes_service_links_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("LIMITER_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(StartupError, match="enableServiceLinks: false"):
        load_settings()


# ---------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("name", INTEGER_FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        "nan",
        "inf",
        "1e400",
        "1e3",
        "1.5",
        "1.0",
        "0x10",
        " 12 ",
        "1_000",
        "+1",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "9" * 5_000,
        "true",
        True,
        False,
        1.0,
        float("nan"),
        float("inf"),
        [1],
        -1,
        "-1",
        2**63,
        str(2**63),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_integers_are_strict(name: str, value: Any) -> None:
    with pytest.raises(StartupError, match=f"^LIMITER_{name.upper()}: "):
        load_settings({name: value})


def test_integer_fields_were_found() -> None:
    assert len(INTEGER_FIELDS) == 20


@pytest.mark.parametrize("name", INTEGER_FIELDS)
def test_the_variable_is_as_strict_as_the_option(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LIMITER_{name.upper()}", "1.5")
    with pytest.raises(StartupError, match=f"^LIMITER_{name.upper()}: must be a whole number$"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("port", 0, 65_535),
        ("workers", 1, 256),
        ("partitions", 1, 16_384),
        ("drift_interval_ms", 0, 3_600_000),
        ("retention_days", 31, 36_500),
        ("default_estimate_micros", 0, MICROS_MAX),
        ("default_hold_ms", 1, HOLD_MS_MAX),
        ("body_bytes_max", 1_024, 16_777_216),
        ("ceiling_input_micros_per_million", 1, MICROS_MAX),
    ],
)
def test_bounds(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(load_settings({name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(StartupError, match=f"^LIMITER_{name.upper()}: "):
            load_settings({name: value})


def test_the_ledger_outlives_every_window() -> None:
    shortest_retention_ms = 31 * periods.DAY_MS
    for period in periods.PERIODS:
        assert period.window_ms + period.bucket_ms <= shortest_retention_ms


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durability", "fsync"),
        ("outage_policy", "ALLOW"),
        ("unknown_workspaces", "refuse"),
        ("on_hold_expiry", ""),
        ("unpriced_models", "Free"),
        ("log_level", "trace"),
        ("log_format", "xml"),
        ("host", ""),
        ("host", "a b"),
        ("host", "a\n"),
    ],
)
def test_words_are_strict(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"^LIMITER_{name.upper()}: "):
        load_settings({name: value})


def test_the_log_level_may_be_in_capitals() -> None:
    assert load_settings({"log_level": "WARNING"}).log_level == "warning"


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(StartupError) as error:
        load_settings({"port": "x", "workers": 0})
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["LIMITER_PORT", "LIMITER_WORKERS"]


# ---------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("{}", {}),
        ('{"hourly": 2000000, "monthly": null}', {"hourly": 2_000_000}),
        ('{"daily": 0}', {"daily": 0}),
        (f'{{"weekly": {MICROS_MAX}}}', {"weekly": MICROS_MAX}),
        ({"hourly": 1, "daily": None}, {"hourly": 1}),
    ],
)
def test_default_limits_name_some_periods_and_leave_the_others_unlimited(
    value: object, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict.fromkeys(periods.PERIOD_NAMES) | limits
    assert load_settings({"default_limits": value}).default_limits == expected
    if isinstance(value, str):
        monkeypatch.setenv("LIMITER_DEFAULT_LIMITS", value)
        assert load_settings().default_limits == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hourly=1", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("1", "must be a JSON object"),
        ("[" * 100_000, "must be a JSON object"),
        ('{"hourly": 1, "hourly": 2}', "a name is there twice"),
        ('{"hourly": 1', "must be a JSON object"),
        ('{"hour": 1}', "no such period: 'hour'; did you mean hourly?"),
        ('{"lifetime": 1}', "no such period"),
        ({1: 1}, "no such period"),
        ('{"hourly": -1}', "hourly must be null or a whole number"),
        ('{"hourly": 1.0}', "hourly must be null or a whole number"),
        ('{"hourly": 1e400}', "hourly must be null or a whole number"),
        ('{"hourly": NaN}', "hourly must be null or a whole number"),
        ('{"hourly": true}', "hourly must be null or a whole number"),
        ('{"hourly": "1"}', "hourly must be null or a whole number"),
        ('{"hourly": 9007199254740992}', "from 0 to 9007199254740991"),
        ('{"hourly": ' + "9" * 5_000 + "}", "must be a JSON object"),
        ({"hourly": 2.5}, "hourly must be null or a whole number"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_default_limits_are_strict(
    value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartupError) as error:
        load_settings({"default_limits": value})
    assert message in str(error.value)
    if isinstance(value, str):
        monkeypatch.setenv("LIMITER_DEFAULT_LIMITS", value)
        with pytest.raises(StartupError) as from_variable:
            load_settings()
        assert str(from_variable.value) == str(error.value)


# ------------------------------------------------------------------------ settings that go together


def test_the_default_hold_fits_the_longest() -> None:
    assert load_settings({"default_hold_ms": 5, "hold_ms_max": 5}).hold_ms_max == 5
    with pytest.raises(StartupError, match="default_hold_ms is above hold_ms_max"):
        load_settings({"default_hold_ms": 6, "hold_ms_max": 5})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"ceiling_input_micros_per_million": 1},
        {"ceiling_output_micros_per_million": 1},
    ],
)
def test_ceilings_are_needed_where_they_are_used(given: dict[str, int]) -> None:
    assert load_settings(given).unpriced_models == "deny"
    with pytest.raises(StartupError, match="needs ceiling_input_micros_per_million and"):
        load_settings({"unpriced_models": "ceiling", **given})


def test_both_ceilings_suffice() -> None:
    settings = load_settings(
        {
            "unpriced_models": "ceiling",
            "ceiling_input_micros_per_million": 3,
            "ceiling_output_micros_per_million": 4,
        }
    )
    assert settings.ceiling_output_micros_per_million == 4


# ------------------------------------------------------------------------------- URLs and secrets


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", "redis://localhost"),
        ("redis_url", "redis://:pw@localhost:6379/0"),
        ("redis_url", "rediss://user:pw@[::1]:6380/2"),
        ("redis_url", "unix:///run/redis.sock"),
        ("redis_url", "unix://:pw@/run/redis.sock?db=1"),
        ("redis_url", "redis+cluster://localhost"),
        ("redis_url", "redis+cluster://user:pw@one:7000,two,[::1]:7002/0"),
        ("redis_url", "rediss+cluster://one:7000?ssl_ca_certs=/etc/one,two.pem"),
        ("database_url", "sqlite:///limiter.db"),
        ("database_url", "sqlite:////var/lib/limiter.db"),
        ("database_url", "postgresql://user:pw@localhost:5432/limiter"),
        ("database_url", "postgresql+psycopg://user@/limiter?host=/run/postgresql"),
    ],
)
def test_urls(name: str, url: str) -> None:
    secret = getattr(load_settings({name: url}), name)
    assert secret.get_secret_value() == url


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("redis_url", f"http://u:{SECRET}@host", "must begin with one of redis://, rediss://"),
        ("redis_url", SECRET, "must begin with one of"),
        ("redis_url", "localhost:6379", "must begin with one of"),
        ("redis_url", f"redis://:{SECRET}@", "names no host"),
        ("redis_url", f"redis://:{SECRET}@host:{SECRET}", "is not a URL"),
        ("redis_url", "redis://host:99999", "is not a URL"),
        ("redis_url", "redis://[::1", "is not a URL"),
        ("redis_url", "unix://", "names no socket"),
        ("redis_url", f"redis+cluster://:{SECRET}@", "names no host"),
        ("redis_url", f"redis+cluster://:{SECRET}@one,,two", "names no host"),
        ("redis_url", f"redis+cluster://:{SECRET}@one,two:{SECRET}", "is not a URL"),
        ("redis_url", f"redis+cluster://:{SECRET}@one/1", "names a database, of which a cluster"),
        ("database_url", f"mysql://u:{SECRET}@host/db", "must begin with one of sqlite://"),
        ("database_url", f"postgres://u:{SECRET}@host/db", "must begin with one of sqlite://"),
        ("database_url", f"postgresql+asyncpg://u:{SECRET}@h/d", "must begin with one of"),
        ("database_url", f"postgresql://u:{SECRET}@host", "names no database"),
        ("database_url", "sqlite://", "names no file"),
        ("database_url", "sqlite:///", "names no file"),
        ("database_url", "sqlite:///:memory:", "names no file"),
        ("database_url", "sqlite://limiter.db", "names no file"),
    ],
)
def test_bad_urls_are_refused_without_being_quoted(
    name: str, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartupError) as error:
        load_settings({name: url})
    assert str(error.value).startswith(f"LIMITER_{name.upper()}: {message}")
    assert SECRET not in str(error.value)
    # The loader drops the original error from the chain, which pydantic made quote its input.
    assert error.value.__suppress_context__
    with pytest.raises(ValidationError) as original:
        Settings(**cast(Any, {name: url}))
    assert SECRET not in str(original.value)
    assert SECRET not in repr(original.value)


def test_a_cluster_has_partitions_for_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "redis+cluster://one,two"
    assert load_settings({"redis_url": url}).partitions == 64
    assert load_settings({"redis_url": url, "partitions": 16}).partitions == 16
    with pytest.raises(StartupError, match="partitions is below 16"):
        load_settings({"redis_url": url, "partitions": 15})
    monkeypatch.setenv("LIMITER_REDIS_URL", url)
    assert load_settings().partitions == 64
    monkeypatch.setenv("LIMITER_PARTITIONS", "100")
    assert load_settings().partitions == 100


def test_secrets_show_nowhere() -> None:
    settings = load_settings(
        {
            "redis_url": f"redis://admin:{SECRET}@redis.example:6379/3?token={SECRET}#{SECRET}",
            "database_url": f"postgresql://admin:{SECRET}@db.example/limiter?sslpassword={SECRET}",
        }
    )
    for shown in (
        repr(settings),
        str(settings),
        json.dumps(describe(settings)),
        settings.model_dump_json(),
    ):
        assert SECRET not in shown
        assert "admin" not in shown
    described = describe(settings)
    assert described["redis_url"] == "redis://***@redis.example:6379/3?token=***"
    assert described["database_url"] == "postgresql://***@db.example/limiter?sslpassword=***"


def test_a_password_with_an_at_sign_is_hidden_whole() -> None:
    settings = load_settings({"redis_url": f"redis://:a@{SECRET}@redis.example"})
    assert describe(settings)["redis_url"] == "redis://***@redis.example"


def test_describe_names_every_setting() -> None:
    described = describe(load_settings({"default_limits": {"hourly": 7}, "data_dir": "here"}))
    assert described.keys() == Settings.model_fields.keys()
    assert described["port"] == "8080"
    assert described["data_dir"] == "here"
    assert described["redis_url"] == "not set"
    assert json.loads(described["default_limits"])["hourly"] == 7


def test_a_sqlite_file_is_described_as_it_was_given() -> None:
    for url in ("sqlite:///limiter.db", "sqlite:////var/lib/limiter.db"):
        assert describe(load_settings({"database_url": url}))["database_url"] == url


# -------------------------------------------------------------------------------------- reference


def test_the_reference_page_is_current() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == settings_reference(), REGENERATE


def test_the_reference_page_has_a_full_row_for_every_setting() -> None:
    rows = [line for line in settings_reference().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [
        f"LIMITER_{name.upper()}" for name in Settings.model_fields
    ]
    for row in rows:
        _, _, values, _, meaning, _ = (cell.strip() for cell in row.split("|"))
        assert values
        assert meaning.endswith(".")


def test_the_reference_page_shows_values_and_defaults_as_they_are_written() -> None:
    page = settings_reference()
    assert "| `LIMITER_PORT` | 0 to 65535 | `8080` |" in page
    assert "| `LIMITER_DURABILITY` | `snapshot`, `sync` | `snapshot` |" in page
    assert "| `LIMITER_REDIS_URL` | URL |  |" in page
    assert "| `LIMITER_DEFAULT_LIMITS` | JSON |  |" in page
    assert "| `LIMITER_CEILING_INPUT_MICROS_PER_MILLION` | 1 to 9007199254740991 |  |" in page


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("10.0.0.1", False),
        ("0", False),
        ("127.1", False),  # It is, but a slip that looks alike is not.
        ("localhost.example", False),
        ("limiter", False),
    ],
)
def test_keys_are_demanded_unless_only_this_machine_can_call(host: str, is_local: bool) -> None:
    assert load_settings({"host": host}).is_local is is_local
    assert load_settings({"host": host}).demands_keys is not is_local
    assert load_settings({"host": host, "auth": "keys"}).demands_keys
    assert not load_settings({"host": host, "auth": "off"}).demands_keys
