"""docs/howto/gateway.md is true: its requests are answered as it shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.repo.tree import ROOT
from tests.support.service import running_service

PAGE = (ROOT / "docs" / "howto" / "gateway.md").read_text(encoding="utf-8")
EXCHANGES: list[tuple[str, str]] = re.findall(
    r"^```console\n\$ (.*?(?:\\\n.*?)*)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE
)


def test_the_requests_are_answered_as_the_page_shows(tmp_path: Path) -> None:
    assert len(EXCHANGES) == PAGE.count("```console") == 3
    with running_service(tmp_path, redis_deadline_ms=10_000) as service:
        for command, shown in EXCHANGES:
            done = subprocess.run(
                ["bash", "-c", command.replace("localhost:8080", f"127.0.0.1:{service.port}")],
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
            assert done.stdout == shown, command
