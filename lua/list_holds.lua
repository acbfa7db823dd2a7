-- list_holds: the live holds of a workspace, the next to expire first. It changes nothing: a hold
-- whose time is over is left out of the reply, and stays where it is.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- ARGV[1]  limit                 so many at most
--
-- Reply, by position:
--   'holds', now ms, {reservation id, micros, chat id or '', expires_at ms} …
--   'cold' | 'invalid', argument
-- Amounts and moments of a hold are text.
--
-- O(limit).
--
-- limiter lua list_holds > list_holds.lua && redis-cli --eval list_holds.lua \
--   'lim:{0}:acme:workspace' , 100

-- include "args"
-- include "now"

local limit = amount(ARGV[1])
if not limit or limit == 0 then return { 'invalid', 'limit' } end
local clock = redis.call('HGET', KEYS[1], 'clock')
if not clock then return { 'cold' } end

local now = now_ms(clock + 0)
local prefix = string.sub(KEYS[1], 1, -11)
local ids = redis.call('ZRANGEBYSCORE', prefix .. ':holds', string.format('(%.0f', now), '+inf',
  'LIMIT', 0, limit)
local reply = { 'holds', now }
for i = 1, #ids do
  local hold = redis.call('HMGET', prefix .. ':hold:' .. ids[i], 'micros', 'chat', 'expires_at')
  if hold[1] then reply[#reply + 1] = { ids[i], hold[1], hold[2] or '', hold[3] } end
end
return reply
