-- glance: where some workspaces stand now: limits, sums, holds. It changes nothing: what is due to
-- leave a window or to expire is left out of the reply, and stays where it is.
--
-- KEYS[1…] workspace scopes      lim:{<partition>}:<workspace>:workspace, all of one partition
--
-- Reply, by position:
--   'glanced', now ms, per key a block: {} when it is cold, or {held, limit 1, spent 1, …}
-- Of one workspace, at most 100 expired holds are left out.
--
-- O(keys * (periods + buckets and holds that are due)).
--
-- limiter lua glance > glance.lua && redis-cli --eval glance.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:zeta:workspace'

-- include "now"
-- include "periods"
-- include "widths"
-- include "counters"
-- include "blocks"

local EXPIRED_MAX = 100

-- gone(key, i, now): what has left window i by `now` and is still in its sum. O(buckets).
local function gone(key, i, now)
  local lifetime_ms = WINDOW_MS[i] + BUCKET_MS[i]
  local micros = 0
  local left = redis.call('ZRANGEBYSCORE', key .. ':' .. PERIODS[i], '-inf', now - lifetime_ms)
  for j = 1, #left do micros = micros + string.match(left[j], ':(%d+)$') end
  local open = redis.call('HMGET', key, 'spent_at', 'open.' .. PERIODS[i])
  local spent_at = (open[1] or 0) + 0
  if spent_at - spent_at % BUCKET_MS[i] + lifetime_ms <= now then
    micros = micros + (open[2] or 0)
  end
  return micros
end

-- given_back(key, now): what expired holds give back. Where expiry charges them, nothing: they
-- count as spent then, instead of held.
local function given_back(key, now)
  if redis.call('HGET', key, 'on_hold_expiry') == 'charge' then return 0 end
  local prefix = string.sub(key, 1, -11)
  local micros = 0
  local ids = redis.call('ZRANGEBYSCORE', prefix .. ':holds', '-inf', now, 'LIMIT', 0, EXPIRED_MAX)
  for i = 1, #ids do
    micros = micros + (redis.call('HGET', prefix .. ':hold:' .. ids[i], 'micros') or 0)
  end
  return micros
end

local now = now_ms(0)
local blocks = {}
for i = 1, #KEYS do
  local key, block = KEYS[i], {}
  local f = read_counters(key)
  if f[1] then
    local at = math.max(now, f[1] + 0)
    local scope = as_workspace(key, '', 0, f)
    if f[4] + 0 > 0 and f[4] + 0 <= at then
      for p = 1, #PERIODS do scope.spent[p] = scope.spent[p] - gone(key, p, at) end
    end
    if f[5] + 0 > 0 and f[5] + 0 <= at then scope.held = scope.held - given_back(key, at) end
    block = workspace_block(scope)
  end
  blocks[i] = block
end
return { 'glanced', now, blocks }
