"""Settings as text: what is set, safe to print, and the reference page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import SecretStr

from limiter.settings import ENV_PREFIX, Settings


def describe(settings: Settings) -> dict[str, str]:
    """Every setting by name as text that is safe to print: no passwords."""
    return {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}


def describe_values(settings: Settings) -> dict[str, object]:
    """The same as values: numbers as numbers, what is not set as None."""
    return {name: _value(getattr(settings, name)) for name in type(settings).model_fields}


def settings_reference() -> str:
    """The page of all settings in Markdown, as it stands in `docs/reference/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable, and an option of `limiter serve`:",
        "`LIMITER_REDIS_URL` is `--redis-url`. An option wins over a variable, and a variable that",
        "is set to nothing counts as absent. An unknown `LIMITER_` variable is an error, and so is",
        "a value that does not fit; `limiter check-config` looks without starting anything.",
        "Amounts are micros, millionths of a US dollar; names in `_MS` are milliseconds.",
        "",
        "| variable | values | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, schema in Settings.model_json_schema()["properties"].items():
        default = schema.get("default")
        shown = f"`{default}`" if default is not None else ""
        lines.append(
            f"| `{ENV_PREFIX}{name.upper()}` | {_values(schema)} | {shown} "
            f"| {schema['description']} |"
        )
    return "\n".join(lines) + "\n"


def _values(schema: Mapping[str, Any]) -> str:
    """What a setting can be, from its JSON schema."""
    for choice in schema.get("anyOf", ()):
        if choice["type"] != "null":
            return _values(choice)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "integer":
        return f"{schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "object":
        return "JSON"
    return {"path": "path", "password": "URL"}.get(schema.get("format", ""), "text")


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    value = _value(value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _value(value: object) -> object:
    if isinstance(value, SecretStr):
        return _masked_url(urlsplit(value.get_secret_value()))
    return str(value) if isinstance(value, Path) else value


def _masked_url(url: SplitResult) -> str:
    """The URL without user, password and the values of its query, which may be secret, too."""
    address = url.netloc.rpartition("@")
    netloc = f"***@{address[2]}" if address[1] else url.netloc
    query = "&".join(f"{name}=***" for name, _ in parse_qsl(url.query, keep_blank_values=True))
    return f"{url.scheme}://{netloc}{url.path}{'?' if query else ''}{query}"
