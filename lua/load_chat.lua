-- load_chat: puts a cold chat back as durable storage knows it, unless it is there.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  chat scope            lim:{<partition>}:<workspace>:chat:<id>
-- ARGV[1]  parent_chat_id        '' = it is a root
-- ARGV[2]  root_chat_id
-- ARGV[3]  depth                 1 = a root
-- ARGV[4]  limit micros          '' = unlimited
-- ARGV[5]  spent micros          of the chat and all below it
-- ARGV[6]  own micros            of the chat itself
-- ARGV[7]  held micros           of the chat and all below it
-- ARGV[8]  revision              of its configuration
-- ARGV[9]  epoch                 of the workspace when durable storage was asked
--
-- Reply, by position:
--   'loaded' | 'present' | 'stale' (the workspace is cold, or of another epoch by now) |
--   'invalid', argument
--
-- O(1).
--
-- limiter lua load_chat > load_chat.lua && redis-cli --eval load_chat.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:acme:chat:c1' , '' c1 1 5000000 0 0 0 1 4711

-- include "args"

local names = { 'parent', 'root', 'depth', 'limit', 'spent', 'own', 'held', 'revision', 'epoch' }
if ARGV[1] ~= '' and not is_id(ARGV[1]) then return { 'invalid', 'parent' } end
if not is_id(ARGV[2]) then return { 'invalid', 'root' } end
for i = 3, 9 do
  local empty_limit = i == 4 and ARGV[i] == ''
  if not amount(ARGV[i]) and not empty_limit then return { 'invalid', names[i] } end
end
if amount(ARGV[4]) == 0 then return { 'invalid', 'limit' } end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[9] then return { 'stale' } end
if redis.call('HGET', KEYS[2], 'epoch') == epoch then return { 'present' } end

redis.call('DEL', KEYS[2]) -- of an earlier epoch
redis.call('HSET', KEYS[2], 'held', amount(ARGV[7]), 'spent.lifetime', amount(ARGV[5]),
  'own', amount(ARGV[6]), 'epoch', epoch, 'parent', ARGV[1], 'root', ARGV[2],
  'depth', amount(ARGV[3]))
local limit, revision = amount(ARGV[4]), amount(ARGV[8])
if limit then redis.call('HSET', KEYS[2], 'limit.lifetime', limit) end
if revision > 0 then redis.call('HSET', KEYS[2], 'revision', revision) end
return { 'loaded' }
