-- Corrections: charges that belong to a moment in the past.

-- include "charge"
-- include "window"

-- adjust_windows(scope, micros, at, now): adds to (or takes from) the buckets that contain `at`,
-- where they still count. O(periods * log(buckets)).
local function adjust_windows(scope, micros, at, now)
  for i = 1, #PERIODS do
    local width = BUCKET_MS[i]
    local start = at - at % width
    local leaves_at = start + width + WINDOW_MS[i]
    if leaves_at > now then
      local delta
      if start == scope.spent_at - scope.spent_at % width then
        delta = math.max(micros, -scope.open[i])
        scope.open[i] = scope.open[i] + delta
      else
        local key = scope.key .. ':' .. PERIODS[i]
        local bucket = redis.call('ZRANGEBYSCORE', key, start, start)[1]
        local before = bucket and bucket_micros(bucket) or 0
        delta = math.max(micros, -before)
        if bucket then redis.call('ZREM', key, bucket) end
        if before + delta > 0 then
          redis.call('ZADD', key, start, string.format('%.0f:%.0f', start, before + delta))
        end
      end
      scope.spent[i] = scope.spent[i] + delta
      if scope.evict_at == 0 or leaves_at < scope.evict_at then
        scope.evict_at, scope.due_changed = leaves_at, true
      end
    end
  end
end

-- adjust_chats(workspace, ids, delta): for a chat (first) and its ancestors. One that is cold is left
-- alone: durable storage, from which it will be loaded, is right already.
local function adjust_chats(workspace, ids, delta)
  for i = 1, #ids do
    local chat = read_chat(workspace, ids[i])
    if chat then
      chat.spent[1] = math.max(0, chat.spent[1] + delta)
      if i == 1 then chat.own = math.max(0, chat.own + delta) end
      save_chat(chat)
    end
  end
end
