-- Scopes: what limits and counters hang on. A workspace's windows roll; a chat counts for its
-- lifetime. Both are one hash with `limit.<period>`, `spent.<period>` and `held`, and both come
-- back as the same kind of table, so that one loop decides over a list of them:
--   key, kind, id, names (periods), held, limit[i] (false: unlimited), spent[i]
--
-- A workspace's `epoch` is a number that no other load of its partition had. A chat of another epoch
-- was loaded for a life of the workspace that is over, and is as good as not there.

-- include "args"
-- include "periods"
-- include "window"

-- read_workspace(key, stream, memory_ms): the workspace's scope, or nil when it is cold. O(1).
-- It carries what every other function needs to find the workspace's keys: they share the part of
-- its key before `:workspace`, so one call stays in one cluster slot.
local function read_workspace(key, stream, memory_ms)
  local f = redis.call('HMGET', key, unpack(WORKSPACE_FIELDS))
  if not f[1] then return nil end
  local prefix = string.sub(key, 1, -11)
  local scope = {
    key = key, kind = 'workspace', id = '', names = PERIODS, rolls = true,
    prefix = prefix, name = string.match(prefix, '([^:]+)$'), stream = stream,
    memory_ms = memory_ms,
    clock = tonumber(f[1]), seq = tonumber(f[2]), held = tonumber(f[3]),
    spent_at = tonumber(f[4]), evict_at = tonumber(f[5]), expire_at = tonumber(f[6]),
    memory_at = f[7], epoch = f[8], default_estimate = tonumber(f[9] or '0'),
    on_hold_expiry = f[10], unpriced = tonumber(f[11] or '0'),
    limit = {}, spent = {}, open = {},
  }
  local count = #PERIODS
  for i = 1, count do
    scope.limit[i] = f[11 + i] and tonumber(f[11 + i])
    scope.spent[i] = tonumber(f[11 + count + i] or '0')
    scope.open[i] = tonumber(f[11 + 2 * count + i] or '0')
  end
  return scope
end

-- save_workspace(scope): writes what a script changed. Numbers go to Redis as call arguments,
-- which it renders with 17 significant digits: exact to 2^53.
local function save_workspace(scope)
  local f = {
    'clock', scope.clock, 'seq', scope.seq, 'held', scope.held,
    'expire_at', scope.expire_at, 'memory_at', scope.memory_at,
  }
  if scope.windows_changed then
    local n = #f
    f[n + 1], f[n + 2], f[n + 3], f[n + 4] = 'spent_at', scope.spent_at, 'evict_at', scope.evict_at
    n = n + 4
    for i = 1, #PERIODS do
      f[n + 1], f[n + 2] = SPENT_FIELDS[i], scope.spent[i]
      f[n + 3], f[n + 4] = OPEN_FIELDS[i], scope.open[i]
      n = n + 4
    end
  end
  redis.call('HSET', scope.key, unpack(f))
end

-- read_chat(workspace, id): the chat's scope, or nil when it is cold. O(1).
local function read_chat(workspace, id)
  local key = workspace.prefix .. ':chat:' .. id
  local f = redis.call('HMGET', key, 'held', 'limit.lifetime', 'spent.lifetime', 'own',
    'parent', 'root', 'depth', 'epoch')
  if f[8] ~= workspace.epoch then return nil end
  return {
    key = key, kind = 'chat', id = id, names = LIFETIME,
    held = tonumber(f[1]), limit = { f[2] and tonumber(f[2]) }, spent = { tonumber(f[3]) },
    own = tonumber(f[4]), parent = f[5], root = f[6], depth = tonumber(f[7]),
  }
end

-- save_chat(scope): writes the chat's counters; all of it when it is new.
local function save_chat(scope)
  if not scope.is_new then
    redis.call('HSET', scope.key, 'held', scope.held, 'spent.lifetime', scope.spent[1],
      'own', scope.own)
    return
  end
  redis.call('DEL', scope.key) -- of an earlier epoch
  redis.call('HSET', scope.key, 'held', scope.held, 'spent.lifetime', scope.spent[1],
    'own', scope.own, 'parent', scope.parent, 'root', scope.root, 'depth', scope.depth,
    'epoch', scope.epoch)
  if scope.limit[1] then redis.call('HSET', scope.key, 'limit.lifetime', scope.limit[1]) end
end

-- save(scope)
local function save(scope)
  if scope.rolls then save_workspace(scope) else save_chat(scope) end
end

-- charge(scope, micros, now): adds to every period of the scope, in memory and its buckets.
local function charge(scope, micros, now)
  if micros == 0 then return end
  if scope.rolls then
    charge_windows(scope, micros, now)
  else
    scope.spent[1] = scope.spent[1] + micros
  end
end

-- fits(scope, micros): whether the scope's sums stay below 2^53 with so much more in them.
local function fits(scope, micros)
  for i = 1, #scope.names do
    if scope.spent[i] + scope.held + micros > MICROS_MAX then return false end
  end
  return true
end
