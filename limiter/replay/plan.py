"""The plan of a replay: where each request of a trace goes, what it costs, which limits bind.

It is made before the first call, from a seed alone: the same arguments give the same plan. Prices
are those of the moment at which the plan is made. It must not talk to anything.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from limiter.models import TOKENS_MAX, EstimateUsage, RecordUsage
from limiter.periods import PERIOD_NAMES
from limiter.pricing import Prices
from limiter.replay.trace import Arrival

# The parent of each position in a tree: a root, two sub-agents, and three sub-agents of theirs.
_TREE_PARENTS: tuple[int | None, ...] = (None, 0, 0, 1, 1, 2)
_TREE_NAMES = ("", ".1", ".2", ".1.1", ".1.2", ".2.1")

# A caller does not know how long an answer gets: it asks for up to this many doublings too much.
_SLACK_DOUBLINGS_MAX = 2


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request. `workspace` and `chat` are positions in the plan; no estimate: withheld."""

    number: int
    offset_us: int
    workspace: int
    chat: int
    input_tokens: int
    output_tokens: int
    max_output_tokens: int | None
    estimate_micros: int
    cost_micros: int


@dataclass(frozen=True, slots=True)
class PlannedChat:
    """One chat. `path`: positions of itself and its ancestors in its workspace, the root last."""

    chat_id: str
    path: tuple[int, ...]
    limit_micros: int | None
    has_children: bool

    @property
    def parent(self) -> int | None:
        return self.path[1] if len(self.path) > 1 else None

    @property
    def root(self) -> int:
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class PlannedWorkspace:
    """One workspace. `limits` names every period."""

    limits: dict[str, int | None]
    chats: tuple[PlannedChat, ...]

    def parent_id(self, chat: PlannedChat) -> str | None:
        """The id of the chat's parent; None for a root."""
        return None if chat.parent is None else self.chats[chat.parent].chat_id


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a replay does."""

    model: str
    workspaces: tuple[PlannedWorkspace, ...]
    requests: tuple[PlannedRequest, ...]

    @property
    def withheld(self) -> int:
        """How many requests bring no estimate."""
        return sum(request.max_output_tokens is None for request in self.requests)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a plan is drawn. `chats` is per workspace; `withheld_fraction` is from 0 to 1.

    `limit_percent`: a limit is so much of what the requests below it would cost together.
    """

    workspaces: int
    chats: int
    seed: int
    withheld_fraction: float
    limit_percent: int


def make_plan(
    arrivals: Sequence[Arrival], spread: Spread, prices: Prices, model: str, at: datetime
) -> Plan:
    """Draws the plan. Raises ModelUnpriced, and CounterOverflow for a cost out of range."""
    draw = random.Random(spread.seed)  # noqa: S311
    paths = [_path(chat) for chat in range(spread.chats)]
    spent = [0] * spread.workspaces
    spent_below = [[0] * spread.chats for _ in spent]
    requests = []
    for number, arrival in enumerate(arrivals):
        # All are drawn for every request, so that withholding changes nothing else.
        workspace = draw.randrange(spread.workspaces)
        chat = draw.randrange(spread.chats)
        slack = draw.randint(0, _SLACK_DOUBLINGS_MAX)
        withheld = draw.random() < spread.withheld_fraction
        max_output_tokens = min((1 << arrival.output_tokens.bit_length()) << slack, TOKENS_MAX)
        estimate_micros = 0
        if not withheld:
            upper_bound = EstimateUsage(
                model=model,
                input_tokens=arrival.input_tokens,
                max_output_tokens=max_output_tokens,
            )
            estimate_micros = prices.estimate(upper_bound, at).micros
        usage = RecordUsage(
            model=model, input_tokens=arrival.input_tokens, output_tokens=arrival.output_tokens
        )
        cost_micros = prices.cost(usage, at).micros
        spent[workspace] += cost_micros
        for position in paths[chat]:
            spent_below[workspace][position] += cost_micros
        requests.append(
            PlannedRequest(
                number=number,
                offset_us=arrival.offset_us,
                workspace=workspace,
                chat=chat,
                input_tokens=arrival.input_tokens,
                output_tokens=arrival.output_tokens,
                max_output_tokens=None if withheld else max_output_tokens,
                estimate_micros=estimate_micros,
                cost_micros=cost_micros,
            )
        )
    workspaces = tuple(
        _workspace(number, spread, paths, spent[number], spent_below[number])
        for number in range(spread.workspaces)
    )
    return Plan(model, workspaces, tuple(requests))


def _path(chat: int) -> tuple[int, ...]:
    """A chat and its ancestors. Trees follow each other; the last may be incomplete."""
    position = chat % len(_TREE_PARENTS)
    path = [chat]
    parent = _TREE_PARENTS[position]
    while parent is not None:
        path.append(chat - position + parent)
        parent = _TREE_PARENTS[parent]
    return tuple(path)


def _workspace(
    number: int, spread: Spread, paths: Sequence[tuple[int, ...]], spent: int, below: Sequence[int]
) -> PlannedWorkspace:
    """Every other workspace is limited by a period, each period in turn.

    Of those between them, one has a limit on a tree's root, the next on a sub-agent, and so on. A
    workspace that is alone has both kinds.
    """
    limits: dict[str, int | None] = dict.fromkeys(PERIOD_NAMES)
    alone = spread.workspaces == 1
    if number % 2 == 0:
        period = PERIOD_NAMES[number // 2 % len(PERIOD_NAMES)]
        limits[period] = _limit(spent, spread.limit_percent)
    limited_chat = None
    if number % 2 == 1 or alone:
        limited_chat = min(number // 2 % 2, spread.chats - 1)
    parents = {path[1] for path in paths if len(path) > 1}
    chats = tuple(
        PlannedChat(
            chat_id=f"t{path[-1] // len(_TREE_PARENTS)}{_TREE_NAMES[chat % len(_TREE_PARENTS)]}",
            path=path,
            limit_micros=_limit(below[chat], spread.limit_percent)
            if chat == limited_chat
            else None,
            has_children=chat in parents,
        )
        for chat, path in enumerate(paths)
    )
    return PlannedWorkspace(limits, chats)


def _limit(spent_micros: int, percent: int) -> int:
    # A chat's limit must be above 0, and a period's 0 would block instead of limit.
    return max(1, spent_micros * percent // 100)
