-- retract: takes a record back out that the ledger already had under its event id, from before
-- Redis forgot the id, and removes its entry from the stream in the same step: once, however often
-- it is called.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  entry                 the record's stream id
-- ARGV[3]  at                    when it was charged, ms
-- ARGV[4]  micros
-- ARGV[5…] chat_id               the record's chat and its ancestors up to the root
--
-- Reply, by position:
--   'retracted' | 'gone' (its entry is) | 'cold', 'workspace' | 'cold', 'chat', id | 'again'
--   | 'invalid', argument
-- A cold workspace needs nothing taken out, as durable storage never counted the record; its entry
-- is removed and the reply is 'retracted'.
--
-- O(periods * log(buckets) + depth).
--
-- limiter lua retract > retract.lua && redis-cli --eval retract.lua 'lim:{0}:acme:workspace' \
--   'lim:{0}:stream' , 3600000 1795334400000-0 1795334400000 9000 c2 c1

-- include "args"
-- include "entry"
-- include "refresh"
-- include "adjust"

local memory_ms, at, micros = amount(ARGV[1]), amount(ARGV[3]), amount(ARGV[4])
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
if not is_entry(ARGV[2]) then return { 'invalid', 'entry' } end
if not at then return { 'invalid', 'at' } end
if not micros then return { 'invalid', 'micros' } end
local chat_ids = {}
for i = 5, #ARGV do
  if not is_id(ARGV[i]) then return { 'invalid', 'chat_id' } end
  chat_ids[i - 4] = ARGV[i]
end

local workspace = read_to_charge(KEYS[1], KEYS[2], memory_ms)
local now, early
if workspace then
  now, early = refresh(workspace)
  if not now then return early end
end

-- Nothing below can fail.
if redis.call('XDEL', KEYS[2], ARGV[2]) == 0 then return { 'gone' } end
if workspace then
  adjust_windows(workspace, 0 - micros, at, now)
  adjust_chats(workspace, chat_ids, 0 - micros)
  workspace.clock = now
  save_workspace(workspace)
end
return { 'retracted' }
