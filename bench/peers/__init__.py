"""What users would pick instead, each as a program that prints how many calls a second it makes.

They run in an environment of their own, which `make bench` makes, and never import the limiter.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = Path(os.environ.get("BENCH_PEERS", ROOT / ".venv-peers")) / "bin" / "python"
