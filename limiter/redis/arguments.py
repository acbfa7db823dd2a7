"""What scripts are called with, made from models: text and numbers only.

Shapes are documented in the scripts' headers. It must not call anything.
"""

from __future__ import annotations

import msgspec

from limiter.periods import PERIOD_NAMES
from limiter.stored import StoredWorkspace, WorkspaceSettings

_encode_text = msgspec.json.Encoder().encode


def text(value: int | None) -> str | int:
    """A number as an argument; '' is null."""
    return "" if value is None else value


def config_fields(settings: WorkspaceSettings) -> dict[str, str]:
    """A workspace's configuration as fields of its hash; '' removes one."""
    fields = {}
    for name in PERIOD_NAMES:
        limit = settings.limits.get(name)
        fields[f"limit.{name}"] = "" if limit is None else str(limit)
    fields["default_estimate"] = str(settings.default_estimate_micros)
    fields["on_hold_expiry"] = settings.on_hold_expiry
    return fields


def workspace_json(stored: StoredWorkspace) -> str:
    """All that load_workspace puts in place."""
    body = {
        "config": config_fields(stored.settings),
        "revision": str(stored.revision),
        "seq": str(stored.seq),
        "spent_at": str(stored.spent_at_ms),
        "clock": str(stored.clock_ms),
        "unpriced": str(stored.unpriced_records),
        "windows": {
            name: [(str(start_ms), str(micros)) for start_ms, micros in buckets]
            for name, buckets in stored.windows.items()
        },
        "holds": [
            (
                hold.reservation_id,
                str(hold.micros),
                str(hold.expires_at_ms),
                hold.chat_id or "",
                hold.fingerprint,
            )
            for hold in stored.holds
        ],
        "events": [
            (event.event_id, event.fingerprint, str(event.charged_micros))
            for event in stored.events
        ],
    }
    return _encode_text(body).decode()
