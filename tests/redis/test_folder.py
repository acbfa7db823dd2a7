"""The data folder: where the socket goes, who may enter, how large the log gets."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import redis

from limiter.errors import StartupError
from limiter.redis import folder
from limiter.redis.embedded import EmbeddedServer, embedded_url


@pytest.fixture
def short_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lim-") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def test_a_long_path_puts_the_socket_into_a_private_temporary_folder(
    tmp_path: Path, binary: Path, short_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / ("long" * 20) / ("longer" * 20)
    with EmbeddedServer(data_dir, binary) as server:
        first = server.socket_path
        assert first.parent.parent == short_temporary_folder
        assert first.parent.stat().st_mode & 0o777 == 0o700
        # Another program finds it although its own temporary folder is elsewhere.
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        url = embedded_url(data_dir)
        assert url is not None
        assert unquote(urlparse(url).path) == str(first)
        with redis.Redis.from_url(url) as client:
            assert client.ping() is True
    monkeypatch.setattr(tempfile, "tempdir", str(short_temporary_folder))
    with EmbeddedServer(data_dir, binary) as server:
        assert server.socket_path == first


def test_folders_of_long_paths_do_not_share_a_socket(
    tmp_path: Path, short_temporary_folder: Path
) -> None:
    paths = {folder.DataFolder(tmp_path / ("long" * 30) / name).new_socket_path() for name in "abc"}
    assert len(paths) == 3


@pytest.mark.parametrize("length", [folder.SOCKET_PATH_BYTES_MAX, folder.SOCKET_PATH_BYTES_MAX + 1])
def test_the_longest_path_that_is_used_can_be_bound(
    length: int, short_temporary_folder: Path
) -> None:
    rest = length - len(os.fsencode(short_temporary_folder.resolve())) - len("//redis/server.sock")
    data_dir = short_temporary_folder.resolve() / ("x" * rest)
    path = folder.DataFolder(data_dir).new_socket_path()
    in_folder = data_dir / "redis" / "server.sock"
    assert len(os.fsencode(in_folder)) == length
    assert (path == in_folder) == (length <= folder.SOCKET_PATH_BYTES_MAX)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_a_temporary_folder_that_others_can_enter_is_refused(
    tmp_path: Path, short_temporary_folder: Path
) -> None:
    (short_temporary_folder / f"limiter-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(StartupError, match="not a private folder of this user"):
        EmbeddedServer(tmp_path / ("long" * 30)).start()


def test_a_temporary_folder_that_is_a_link_is_refused(
    tmp_path: Path, short_temporary_folder: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (short_temporary_folder / f"limiter-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match="not a private folder of this user"):
        EmbeddedServer(tmp_path / ("long" * 30)).start()


def test_a_folder_that_never_had_a_server_has_no_url(tmp_path: Path) -> None:
    assert embedded_url(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"cannot create the folder .*: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "data", wheel).start()


def test_a_large_log_is_set_aside_once(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LOG_BYTES_MAX", 100)
    for _ in range(3):
        with EmbeddedServer(tmp_path, wheel) as server:
            log_path = server.log_path
    assert log_path.read_text().count("Ready to accept") == 1
    assert log_path.with_name("server.log.1").read_text().count("Ready to accept") == 1
