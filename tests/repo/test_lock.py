"""The lock files against `pyproject.toml`: complete, satisfying, and free of addresses."""

import re
from importlib.metadata import requires
from itertools import product

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.tree import ROOT, pyproject

LOCKS = ["requirements.lock", "requirements-dev.lock"]
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[A-Za-z0-9.!+]+( ; .+)?")
ENVIRONMENTS = [
    {"python_version": version, "python_full_version": f"{version}.{patch}", "sys_platform": system}
    for (version, patch), system in product(
        [("3.11", 0), ("3.11", 9), ("3.12", 1), ("3.13", 0)], ["linux", "darwin"]
    )
]


def lines(lock: str) -> list[str]:
    """Return the lines of a lock file without its comments."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def pins(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """Return {distribution: version} of the pins that apply to `environment`, each once."""
    found: dict[str, str] = {}
    for line in lines(lock):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{lock} pins {name} twice for {environment}"
            found[name] = str(requirement.specifier).removeprefix("==")
    return found


def declared(lock: str) -> list[Requirement]:
    """Return what `pyproject.toml` asks of a lock file."""
    project = pyproject()
    declared = list(project["project"]["dependencies"])
    if lock == "requirements-dev.lock":
        declared += project["dependency-groups"]["dev"]
        declared += project["project"]["optional-dependencies"]["otel"]
    return [Requirement(line) for line in declared]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_an_exact_pin_without_an_address(lock: str) -> None:
    assert lines(lock)
    assert [line for line in lines(lock) if not PIN.fullmatch(line)] == []
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: " ".join(e.values()))
@pytest.mark.parametrize("lock", LOCKS)
def test_pins_satisfy_pyproject(lock: str, environment: dict[str, str]) -> None:
    pinned = pins(lock, environment)
    for requirement in declared(lock):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"run `make lock`: {lock} lacks {requirement}"
            assert requirement.specifier.contains(version, prereleases=True), (
                f"run `make lock`: {lock} has {version} for {requirement}"
            )


@pytest.mark.parametrize("lock", LOCKS)
def test_pins_are_closed_under_what_the_packages_themselves_require(lock: str) -> None:
    environment = {name: str(value) for name, value in default_environment().items()}
    pinned = pins(lock, environment)
    pending = [(canonicalize_name(r.name), frozenset(r.extras)) for r in declared(lock)]
    seen = set(pending)
    while pending:
        name, extras = pending.pop()
        for line in requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not any(
                marker.evaluate(environment | {"extra": extra}) for extra in extras | {""}
            ):
                continue
            required = canonicalize_name(requirement.name)
            assert required in pinned, f"{lock} lacks {requirement}, which {name} requires"
            assert requirement.specifier.contains(pinned[required], prereleases=True)
            node = (required, frozenset(requirement.extras))
            if node not in seen:
                seen.add(node)
                pending.append(node)
    reached = {name for name, _extras in seen}
    assert set(pinned) == reached, f"{lock} pins what nothing requires"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: " ".join(e.values()))
def test_tests_run_with_the_versions_that_the_service_runs_with(
    environment: dict[str, str],
) -> None:
    runtime = pins("requirements.lock", environment)
    dev = pins("requirements-dev.lock", environment)
    assert {name: dev.get(name) for name in runtime} == runtime
