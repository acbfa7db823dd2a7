-- Charging rolling windows.
--
-- A window is a running sum (`spent.<period>`), an open bucket (`open.<period>`: what was charged
-- in the bucket that contains `spent_at`) and a sorted set of closed buckets, members
-- "<start_ms>:<micros>" scored by start. A bucket leaves once all of it is older than the window:
-- at start + bucket + window. `evict_at` is the earliest such moment over all windows; before it no
-- sorted set has to be looked at, and while the open bucket lasts, none is written.

-- include "scope"
-- include "open"
-- include "periods"
-- include "widths"

-- read_to_charge(key, stream, memory_ms): as read_workspace, with the open buckets. O(1).
local function read_to_charge(key, stream, memory_ms)
  local f = read_all(key)
  if not f[1] then return nil end
  local scope = as_workspace(key, stream, memory_ms, f)
  take_open(scope, f, OPEN_AFTER)
  return scope
end

-- need_open(scope): the open buckets, where they are not there yet.
local function need_open(scope)
  if not scope.open then take_open(scope, read_open(scope.key), 0) end
end

-- save_workspace(scope): writes what a script may have changed. What is due when seldom changes:
-- whoever changes it sets `due_changed`.
local function save_workspace(scope)
  write_sums(scope)
  if scope.due_changed then
    redis.call('HSET', scope.key, 'evict_at', scope.evict_at, 'expire_at', scope.expire_at,
      'memory_at', scope.memory_at)
  end
end

-- charge_windows(scope, micros, now): adds to every window. Nothing to evict may be left.
-- Writes a sorted set only where a bucket closes.
local function charge_windows(scope, micros, now)
  local spent, open, spent_at = scope.spent, scope.open, scope.spent_at
  for i = 1, #PERIODS do
    local width = BUCKET_MS[i]
    local start, open_start = now - now % width, spent_at - spent_at % width
    if start ~= open_start or open[i] == 0 then
      if open[i] > 0 then
        redis.call('ZADD', scope.key .. ':' .. PERIODS[i], open_start,
          string.format('%.0f:%.0f', open_start, open[i]))
        open[i] = 0
      end
      local leaves_at = start + width + WINDOW_MS[i]
      if scope.evict_at == 0 or leaves_at < scope.evict_at then
        scope.evict_at, scope.due_changed = leaves_at, true
      end
    end
    open[i] = open[i] + micros
    spent[i] = spent[i] + micros
  end
  scope.spent_at = now
end
