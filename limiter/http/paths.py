"""The paths of the API, as the router and OpenAPI spell them."""

from __future__ import annotations

from typing import Final

CHECK: Final = "/check"
RECORD: Final = "/record"
RELEASE: Final = "/release"
WORKSPACE_CONFIG: Final = "/config/workspaces/{workspace_id}"
CHAT_CONFIG: Final = "/config/workspaces/{workspace_id}/chats/{chat_id}"
WORKSPACE_USAGE: Final = "/usage/workspaces/{workspace_id}"
CHAT_USAGE: Final = "/usage/workspaces/{workspace_id}/chats/{chat_id}"
HEALTH: Final = "/healthz"
READINESS: Final = "/readyz"
METRICS: Final = "/metrics"
DOCS: Final = "/docs"
