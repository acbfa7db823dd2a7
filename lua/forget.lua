-- forget: makes a workspace cold, with its windows, holds, chats and sources (whose epoch ends with
-- it). The next call loads it from durable storage: how counters are repaired that Redis has lost a
-- part of, and how idle workspaces leave.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- ARGV[1]  seq_below             forget only if its last entry's number is below this; '' = always
-- ARGV[2]  idle_since            forget only if nothing is held and nothing changed since, ms;
--                                '' = always
--
-- Reply, by position:
--   'forgotten' | 'kept' | 'cold' | 'invalid', argument
--
-- O(holds + buckets).
--
-- limiter lua forget > forget.lua && redis-cli --eval forget.lua 'lim:{0}:acme:workspace' , '' ''

-- include "args"
-- include "periods"

local seq_below, idle_since = amount(ARGV[1]), amount(ARGV[2])
if not seq_below and ARGV[1] ~= '' then return { 'invalid', 'seq_below' } end
if not idle_since and ARGV[2] ~= '' then return { 'invalid', 'idle_since' } end
local known = redis.call('HMGET', KEYS[1], 'seq', 'held', 'clock')
if not known[1] then return { 'cold' } end
if seq_below and tonumber(known[1]) >= seq_below then return { 'kept' } end
if idle_since and (known[2] ~= '0' or tonumber(known[3]) > idle_since) then return { 'kept' } end

local prefix = string.sub(KEYS[1], 1, -11)
for _, id in ipairs(redis.call('ZRANGE', prefix .. ':holds', 0, -1)) do
  redis.call('DEL', prefix .. ':hold:' .. id)
end
redis.call('DEL', prefix .. ':holds')
for i = 1, #PERIODS do redis.call('DEL', KEYS[1] .. ':' .. PERIODS[i]) end
redis.call('DEL', KEYS[1])
return { 'forgotten' }
