"""A spend limiter for LLM calls: rolling budgets, chat trees, holds, exactly-once records.

    async with open_limiter(Settings()) as limiter:
        answer = await limiter.check(CheckRequest(workspace_id="acme", estimate_micros=12_000))
        if answer.allowed:
            ...  # call the model, then
            await limiter.record(
                RecordRequest(
                    workspace_id="acme", reservation_id=answer.reservation.id, cost_micros=9_000
                )
            )

`Limiter` is the product, HTTP is one face of it. `limiter.models` has the bodies, `limiter.errors`
what is raised. Names are imported when they are first used, so that a command or a client does not
load the whole service.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limiter.models import (
        Admitted,
        ChatPatch,
        CheckRequest,
        Denied,
        EstimateUsage,
        Recorded,
        RecordRequest,
        RecordUsage,
        Refused,
        Released,
        ReleaseRequest,
        WorkspacePatch,
    )
    from limiter.runtime import open_limiter
    from limiter.service import Limiter
    from limiter.settings import Settings, load_settings

__version__ = version("llm-spend-limiter")

__all__ = [
    "Admitted",
    "ChatPatch",
    "CheckRequest",
    "Denied",
    "EstimateUsage",
    "Limiter",
    "RecordRequest",
    "RecordUsage",
    "Recorded",
    "Refused",
    "ReleaseRequest",
    "Released",
    "Settings",
    "WorkspacePatch",
    "load_settings",
    "open_limiter",
]

_HOMES = {
    "Limiter": "limiter.service",
    "Settings": "limiter.settings",
    "load_settings": "limiter.settings",
    "open_limiter": "limiter.runtime",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "limiter.models")), name)
