"""`limiter holds`: the live reservations of a workspace, and giving one back."""

from __future__ import annotations

from rich.console import Console

from limiter.commands.data import open_data
from limiter.commands.output import Head, dollars, duration, print_table, right
from limiter.models import Released, ReleaseRequest
from limiter.redis.keys import require_id
from limiter.settings import Settings
from limiter.views import HoldView


async def holds(settings: Settings, workspace_id: str, limit: int) -> list[HoldView]:
    """Raises NotFound, InvalidRequest, StartupError, Unavailable."""
    async with open_data(settings) as parts:
        return await parts.limiter.reads.holds(workspace_id, limit=limit)


async def release(settings: Settings, workspace_id: str, reservation_id: str) -> Released:
    """What `POST /release` answers. Raises the same, and ReservationNotFound."""
    require_id(workspace_id, "workspace_id")
    request = ReleaseRequest(workspace_id=workspace_id, reservation_id=reservation_id)
    async with open_data(settings) as parts:
        return await parts.limiter.release(request)


def show_holds(console: Console, found: list[HoldView], limit: int) -> None:
    columns: list[Head] = ["reservation", right("held"), "chat", right("age"), "expires at"]
    rows = [
        [
            hold.reservation_id,
            dollars(hold.held_micros),
            hold.chat_id or "",
            "new" if hold.age_ms is None else duration(hold.age_ms),
            hold.expires_at,
        ]
        for hold in found
    ]
    print_table(console, columns, rows)
    if len(found) == limit:
        print(f"there may be more than these {limit:,}: see --limit")


def show_released(released: Released) -> None:
    text = f"{released.reservation_id} is {released.state}"
    if released.duplicate:
        text += ", and was so before"
    print(f"{text}: {dollars(released.released_micros)}")
