-- What is rarely done with rolling windows: looking into their closed buckets (see lib/charge.lua).

-- include "charge"

-- bucket_micros(member): the amount in a closed bucket.
local function bucket_micros(member)
  return tonumber(string.match(member, ':(%d+)$'))
end

-- evict(scope, now): takes out of every window what has left it. Changes the scope in memory, whose
-- open buckets have to be there (the caller saves it), and removes buckets from their sorted sets.
-- O(periods * log(buckets) + buckets that leave), at most 127 buckets a period.
local function evict(scope, now)
  local evict_at = 0
  for i = 1, #PERIODS do
    local key = scope.key .. ':' .. PERIODS[i]
    local lifetime_ms = WINDOW_MS[i] + BUCKET_MS[i]
    local gone = redis.call('ZRANGEBYSCORE', key, '-inf', now - lifetime_ms)
    if #gone > 0 then
      for j = 1, #gone do scope.spent[i] = scope.spent[i] - bucket_micros(gone[j]) end
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now - lifetime_ms)
    end
    local leaves_at
    local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if oldest[2] then
      leaves_at = oldest[2] + lifetime_ms
    elseif scope.open[i] > 0 then
      leaves_at = scope.spent_at - scope.spent_at % BUCKET_MS[i] + lifetime_ms
      if leaves_at <= now then
        scope.spent[i] = scope.spent[i] - scope.open[i]
        scope.open[i] = 0
        leaves_at = nil
      end
    end
    if leaves_at and (evict_at == 0 or leaves_at < evict_at) then evict_at = leaves_at end
  end
  scope.evict_at, scope.due_changed = evict_at, true
end

-- freed_at(scope, i, needed): the moment at which `needed` micros will have left window i, found
-- by walking its buckets from the oldest, or nil if all of them hold less. O(buckets).
local function freed_at(scope, i, needed)
  local lifetime_ms = WINDOW_MS[i] + BUCKET_MS[i]
  local buckets = redis.call('ZRANGE', scope.key .. ':' .. PERIODS[i], 0, -1, 'WITHSCORES')
  for j = 1, #buckets, 2 do
    needed = needed - bucket_micros(buckets[j])
    if needed <= 0 then return buckets[j + 1] + lifetime_ms end
  end
  need_open(scope)
  if needed <= scope.open[i] then
    return scope.spent_at - scope.spent_at % BUCKET_MS[i] + lifetime_ms
  end
  return nil
end
