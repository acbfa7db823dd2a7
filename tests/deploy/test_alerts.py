"""The alerts, the scrape example and their page, held to the metrics, the commands, each other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from limiter.access import ROLES
from limiter.cli import app
from limiter.metrics import FAMILIES
from limiter.settings import ENV_PREFIX, Settings
from tests.deploy.promql import TARGET_LABELS, faults
from tests.support.parts import need

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PAGE_PATH = "docs/howto/alerts.md"
PAGE = (ROOT / PAGE_PATH).read_text(encoding="utf-8")
METRICS_PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
PROMTOOL_MS_MAX = 60_000

ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[rule["alert"] for rule in ALERTS])


@every_alert
def test_an_alert_asks_for_what_there_is(alert: dict[str, Any]) -> None:
    assert faults(alert["expr"]) == []


@every_alert
def test_an_alert_says_what_it_means_and_where_to_look(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "look_at", "runbook"}
    assert alert["annotations"]["runbook"] == f"{PAGE_PATH}#{alert['alert'].lower()}"
    labels = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
    assert labels <= {"instance", "cause"}
    # What a summary names must be left by the sum.
    kept = re.findall(r"\bby \(([^)]*)\)", alert["expr"])
    for label in labels:
        assert all(label in names.split(", ") for names in kept)


@every_alert
def test_where_to_look_is_a_command_that_there_is(alert: dict[str, Any]) -> None:
    program, command, *_ = shlex.split(alert["annotations"]["look_at"])
    assert program == "limiter"
    assert command in commands()


def commands() -> set[str]:
    group = typer.main.get_command(app)
    return set(getattr(group, "commands"))  # noqa: B009  # mypy does not see that it is a group.


def test_every_alert_has_its_section_and_no_other_is_there() -> None:
    sections = re.findall(r"^## (Limiter\w+)$", PAGE, flags=re.MULTILINE)
    assert sections == sorted(set(sections), key=sections.index)
    assert set(sections) == {rule["alert"] for rule in ALERTS}
    for name, text in re.findall(
        r"^## (Limiter\w+)\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE
    ):
        assert len(text.split()) > 20, f"{name}: the section says next to nothing"


def test_what_the_page_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)?(?:#[^)]*)?\)", PAGE):
        assert not target or (ROOT / PAGE_PATH).parent.joinpath(target).resolve().is_file(), target
    for name in re.findall(rf"`{ENV_PREFIX}(\w+)", PAGE):
        assert name.lower() in Settings.model_fields
    for name in re.findall(r"`(deploy/[^`]+)`", PAGE):
        assert (ROOT / name).is_file()
    for command in re.findall(r"(?:^|`)limiter ([a-z-]+)", PAGE, flags=re.MULTILINE):
        assert command in commands()
    for anchor in re.findall(r"\(#(\w+)\)", PAGE):
        assert anchor in {rule["alert"].lower() for rule in ALERTS}


def test_every_outcome_that_is_no_answer_calls_somebody() -> None:
    expressions = " ".join(rule["expr"] for rule in ALERTS)
    for name in ("degraded", "refused", "queued", "internal", "store", "expiry"):
        assert f'"{name}"' in expressions
    silent = {family.name for family in FAMILIES if family.name not in expressions}
    # What is counted to be looked at, and is no trouble by itself.
    assert silent == {
        "limiter_denials_total",
        "limiter_duplicates_total",
        "limiter_charged_micros_total",
        "limiter_snapshot_pass_duration_seconds",
        "limiter_snapshot_pass_failures_total",
        "limiter_snapshot_entries_total",
        "limiter_redis_batch_commands",
        "limiter_breaker_openings_total",
    }


def test_the_scrape_example_asks_as_the_service_answers() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = config["scrape_configs"]
    assert config["rule_files"] == ["alerts.yml"]
    assert (scrape["job_name"], scrape["metrics_path"]) == (TARGET_LABELS["job"], "/metrics")
    assert scrape["authorization"]["type"] == "Bearer"
    (how,) = re.findall(
        r"limiter keys create --role (\w+)", (FOLDER / "prometheus.yml").read_text()
    )
    assert how in ROLES
    assert how == "monitor"
    assert scrape["authorization"]["credentials_file"] in PAGE


@pytest.mark.parametrize(
    "expression", re.findall(r"^\| [^|]+\? \| `([^`]+)` \|$", METRICS_PAGE, flags=re.MULTILINE)
)
def test_what_the_reference_tells_to_watch_is_there(expression: str) -> None:
    assert faults(expression) == []


@pytest.mark.parametrize(
    ("command", "name"),
    [(["check", "rules"], "alerts.yml"), (["test", "rules"], "alerts_test.yml")],
)
def test_prometheus_takes_the_rules_and_fires_as_it_should(command: list[str], name: str) -> None:
    promtool = need("promtool", shutil.which("promtool"), "promtool of Prometheus")
    done = subprocess.run(
        [promtool, *command, FOLDER / name],
        capture_output=True,
        text=True,
        timeout=PROMTOOL_MS_MAX / 1_000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
