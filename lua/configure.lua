-- configure: sets the configuration of a workspace or the limit of a chat, and touches no counter.
-- Durable storage has it already; a revision that is not newer than the one here changes nothing,
-- so late and repeated calls are harmless.
--
-- KEYS[1]  the scope             lim:{<partition>}:<workspace>:workspace or …:chat:<id>
-- ARGV[1]  revision              of the scope's configuration, counted by durable storage
-- ARGV[2…] field, value          limit.<period>, default_estimate: micros; on_hold_expiry;
--                                '' removes the field
--
-- Reply, by position:
--   'configured' | 'stale' | 'cold' | 'invalid', argument
--
-- O(fields).
--
-- limiter lua configure > configure.lua && redis-cli --eval configure.lua \
--   'lim:{0}:acme:workspace' , 2 limit.hourly 2000000 limit.daily ''

-- include "args"
-- include "config"

local revision = amount(ARGV[1])
if not revision then return { 'invalid', 'revision' } end
for i = 2, #ARGV, 2 do
  if not is_config(ARGV[i], ARGV[i + 1]) then return { 'invalid', ARGV[i] } end
end
local known = redis.call('HMGET', KEYS[1], 'held', 'revision')
if not known[1] then return { 'cold' } end
if tonumber(known[2] or '0') >= revision then return { 'stale' } end

redis.call('HSET', KEYS[1], 'revision', revision)
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], amount(ARGV[i + 1]) or ARGV[i + 1])
  end
end
return { 'configured' }
