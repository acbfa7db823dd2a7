-- inspect: the counters of a workspace and of some of its chats as they lie here, in one moment.
-- Unlike `usage` it changes nothing, so nothing leaves a window and no hold expires by it.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2…] chats                 lim:{<partition>}:<workspace>:chat:<id>
--
-- Reply, by position:
--   'inspected', epoch, seq, clock ms, held micros, live holds, unpriced records,
--                per period: {spent micros, start ms of the open bucket, its micros,
--                             closed buckets as "<start ms>:<micros>" …},
--                per chat: {} when it is cold, or {spent micros, own micros, held micros},
--                now ms
--   'cold'
-- All numbers are text.
--
-- O(periods * buckets + chats).
--
-- limiter lua inspect > inspect.lua && redis-cli --eval inspect.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:acme:chat:c1'

-- include "now"
-- include "periods"
-- include "widths"

local f = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'clock', 'held', 'unpriced', 'spent_at')
if not f[1] then return { 'cold' } end

local windows = {}
for i = 1, #PERIODS do
  local sums = redis.call('HMGET', KEYS[1], 'spent.' .. PERIODS[i], 'open.' .. PERIODS[i])
  local spent_at = tonumber(f[6])
  local start = string.format('%.0f', spent_at - spent_at % BUCKET_MS[i])
  local window = { sums[1] or '0', start, sums[2] or '0' }
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1] .. ':' .. PERIODS[i], 0, -1)) do
    window[#window + 1] = member
  end
  windows[i] = window
end

local chats = {}
for i = 2, #KEYS do
  local chat = redis.call('HMGET', KEYS[i], 'epoch', 'spent.lifetime', 'own', 'held')
  chats[i - 1] = chat[1] == f[1] and { chat[2], chat[3], chat[4] } or {}
end

local holds = redis.call('ZCARD', string.sub(KEYS[1], 1, -11) .. ':holds')
local now = string.format('%.0f', now_ms(f[3] + 0))
return { 'inspected', f[1], f[2], f[3], f[4], tostring(holds), f[5] or '0', windows, chats, now }
