-- release: gives a hold back. Harmless to repeat.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  reservation_id
--
-- Reply, by position:
--   'released', now ms, micros given back (0 if it was not held), state letter it was in before
--   'invalid', argument | 'cold', 'workspace' | 'cold', 'chat', id | 'again'
--
-- O(depth).
--
-- limiter lua release > release.lua && redis-cli --eval release.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:stream' , 3600000 r1

-- include "args"
-- include "refresh"
-- include "chain"
-- include "charge"
-- include "holds"
-- include "memory"
-- include "stream"

local memory_ms, id = amount(ARGV[1]), ARGV[2]
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
if not is_id(id) then return { 'invalid', 'reservation_id' } end

local workspace = read_to_charge(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end

local hold = redis.call('HMGET', workspace.prefix .. ':hold:' .. id, 'micros', 'chat')
if not hold[1] then
  local letter = settled_state(workspace, now, id)
  return { 'released', now, 0, letter }
end
local micros, chain = hold[1] + 0, {}
if hold[2] ~= '' then
  chain, early = read_chain(workspace, hold[2], '', nil, '')
  if not chain then return early end
end

-- Nothing below can fail.
drop_hold(workspace.prefix, id)
remember(workspace, now, 'r:' .. id, 'l:0:' .. hold[2])
append(workspace, 'release', now, 'reservation', id, 'chat', hold[2])
for i = 1, #chain do
  chain[i].held = chain[i].held - micros
  save_chat(chain[i])
end
workspace.held = workspace.held - micros
workspace.clock = now
save_workspace(workspace)
return { 'released', now, micros, 'h' }
