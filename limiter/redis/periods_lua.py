"""The pieces of the scripts that are made from the period table, as Lua.

A loop over the periods that only moves values between a reply and a table costs more than the
moves, so those are written out. It must not know what a script does with them.
"""

from __future__ import annotations

from collections.abc import Iterable

from limiter.periods import LIFETIME, PERIOD_NAMES, PERIODS

# What every script reads of a workspace, in this order; the limits and the sums follow.
_HEAD = ("clock", "seq", "held", "evict_at", "expire_at", "epoch")
# What a charge reads as well; the open buckets follow.
_OPEN_HEAD = ("spent_at", "memory_at")

_COUNT = len(PERIODS)
_NUMBERS = range(1, _COUNT + 1)
_OPEN_AFTER = len(_HEAD) + 2 * _COUNT

# What is replied of a workspace, and of a chat.
_WORKSPACE_BLOCK = ("workspace.held", *(f"limit[{i}] or '', spent[{i}]" for i in _NUMBERS))
_CHAT_BLOCK = (
    *("chat.id", "chat.parent", "chat.root", "chat.held"),
    *("chat.limit[1] or ''", "chat.spent[1]", "chat.own"),
)


def period_pieces() -> dict[str, str]:
    """Library pieces by name.

    `periods`: names; `widths`: lengths in ms; `counters`: what every call reads of a workspace;
    `open`: what else a charge reads and writes; `blocks` and `outcome`: what is replied of scopes.
    """
    return {
        "periods": _periods(),
        "widths": _widths(),
        "counters": _counters(),
        "open": _open(),
        "blocks": _blocks(),
        "outcome": _outcome(),
    }


def _periods() -> str:
    return "\n".join([_table("PERIODS", _quoted("{}")), _table("LIFETIME", [f"'{LIFETIME}'"])])


def _widths() -> str:
    return "\n".join(
        [
            _table("WINDOW_MS", [str(period.window_ms) for period in PERIODS]),
            _table("BUCKET_MS", [str(period.bucket_ms) for period in PERIODS]),
        ]
    )


def _counters() -> str:
    head = {name: f"f[{place}] + 0" for place, name in enumerate(_HEAD, start=1)}
    head["epoch"] = head["epoch"].removesuffix(" + 0")  # it is only ever compared
    limits = [f"f[{len(_HEAD) + i}]" for i in _NUMBERS]
    sums = [f"f[{len(_HEAD) + _COUNT + i}]" for i in _NUMBERS]
    return f"""\
-- read_counters(key): {_join(_HEAD)}, the limits, the sums
local function read_counters(key)
  return redis.call('HMGET', key, {_join(_hot_fields())})
end
-- as_workspace(key, stream, memory_ms, f): a workspace's scope, of what read_counters read. It
-- carries what every other function needs to find the workspace's keys: they share the part of its
-- key before `:workspace`, so one call stays in one cluster slot.
local function as_workspace(key, stream, memory_ms, f)
  return {{
    key = key, rolls = true, prefix = string.sub(key, 1, -11), stream = stream,
    memory_ms = memory_ms,
    {_join(f"{name} = {value}" for name, value in head.items())},
    limit = {{ {_join(f"{limit} and {limit} + 0" for limit in limits)} }},
    spent = {{ {_join(f"({micros} or 0) + 0" for micros in sums)} }},
  }}
end"""


def _open() -> str:
    names = _quoted("{}", *_OPEN_HEAD) + _quoted("open.{}")
    buckets = [f"(f[after + {len(_OPEN_HEAD) + i}] or 0) + 0" for i in _NUMBERS]
    written = [f"'{field}', scope.{field}" for field in ("clock", "seq", "held", "spent_at")]
    for table in ("spent", "open"):
        fields = _quoted(table + ".{}")
        written += [f"{field}, {table}[{i}]" for i, field in enumerate(fields, start=1)]
    return f"""\
-- read_open(key): {_join(_OPEN_HEAD)}, the open buckets
local function read_open(key)
  return redis.call('HMGET', key, {_join(names)})
end
-- read_all(key): what read_counters and read_open read
local function read_all(key)
  return redis.call('HMGET', key, {_join(_hot_fields() + names)})
end
local OPEN_AFTER = {_OPEN_AFTER}
-- take_open(scope, f, after): what read_open reads, found in f after so many others
local function take_open(scope, f, after)
  scope.spent_at, scope.memory_at = f[after + 1] + 0, f[after + 2]
  scope.open = {{ {_join(buckets)} }}
end
-- write_sums(scope): all that a charge changes but for what is due when
local function write_sums(scope)
  local spent, open = scope.spent, scope.open
  redis.call('HSET', scope.key, {_join(written)})
end"""


def _blocks() -> str:
    return f"""\
-- workspace_block(workspace): {{held, limit 1, spent 1, limit 2, spent 2, …}}; '' stands for null
local function workspace_block(workspace)
  local limit, spent = workspace.limit, workspace.spent
  return {{ {_join(_WORKSPACE_BLOCK)} }}
end
-- chat_block(chat): {{id, parent, root, held, limit, spent, own}}; '' stands for null
local function chat_block(chat)
  return {{ {_join(_CHAT_BLOCK)} }}
end"""


def _outcome() -> str:
    head = "status, a, b, c, d"
    return f"""\
-- outcome(status, a, b, c, d, workspace, chat): the reply of a call that took effect: these five,
-- and what both blocks would say. It is flat, as a block costs Redis and whoever reads it as much
-- as all that is in it.
local function outcome({head}, workspace, chat)
  local limit, spent = workspace.limit, workspace.spent
  if not chat then return {{ {head}, {_join(_WORKSPACE_BLOCK)} }} end
  return {{ {head}, {_join(_WORKSPACE_BLOCK)}, {_join(_CHAT_BLOCK)} }}
end"""


def _hot_fields() -> list[str]:
    return _quoted("{}", *_HEAD) + _quoted("limit.{}") + _quoted("spent.{}")


def _table(name: str, values: Iterable[str]) -> str:
    return f"local {name} = {{ {_join(values)} }}"


def _join(items: Iterable[str]) -> str:
    return ", ".join(items)


def _quoted(pattern: str, *names: str) -> list[str]:
    """As Lua strings: the pattern with each name, or with that of each period."""
    return [f"'{pattern.format(name)}'" for name in names or PERIOD_NAMES]
