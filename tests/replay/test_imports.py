"""A replay is a caller: what it imports of this package runs in no service."""

import ast
from pathlib import Path

import limiter.replay

ALLOWED = {"access", "errors", "models", "money", "periods", "pricing", "replay"}


def test_only_pure_modules_and_prices_are_imported() -> None:
    imported = set()
    for path in Path(limiter.replay.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.module
                names = [node.module]
            imported |= {name.split(".")[1] for name in names if name.startswith("limiter.")}
    assert imported == ALLOWED
