"""The audit in words: what each change of configuration changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from limiter.views import AuditView
from limiter.web.words import dollars

_NAMES = {
    "default_estimate_micros": "held without an estimate",
    "on_hold_expiry": "a hold that expires",
    "outage_policy": "while Redis is away",
    "limit_micros": "limit",
    "parent_chat_id": "parent",
}
_ABSENT = {"outage_policy": "the service's default", "parent_chat_id": "none"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was changed. `before` is None where there was nothing before."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """Who changed what, and when. `chat_id` is None for the workspace itself."""

    at: str
    actor: str
    chat_id: str | None
    is_new: bool
    differences: list[Difference]


def changes(audit: Sequence[AuditView]) -> list[Change]:
    """Every row of the audit, with what is different after it."""
    return [
        Change(
            at=row.at,
            actor=row.actor,
            chat_id=row.chat_id,
            is_new=row.before is None,
            differences=list(_differences(row)),
        )
        for row in audit
    ]


def _differences(row: AuditView) -> Iterator[Difference]:
    before = None if row.before is None else _flat(row.before)
    for name, value in _flat(row.after).items():
        if before is None:
            # What is new has every rule; only what limits it, and where it belongs, is said.
            if value and name != "on_hold_expiry":
                yield Difference(_NAMES.get(name, name), None, _said(name, value))
        elif before.get(name) != value:
            said = _said(name, before.get(name))
            yield Difference(_NAMES.get(name, name), said, _said(name, value))


def _flat(fields: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in fields.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def _said(name: str, value: object) -> str:
    if value is None:
        return _ABSENT.get(name, "unlimited")
    if isinstance(value, int):
        return dollars(value)
    return str(value)
