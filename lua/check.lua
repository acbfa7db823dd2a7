-- check: may a call be made? Admits and holds its estimate on every scope, or changes nothing.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  estimate_micros       '' = the workspace's configured default
-- ARGV[3]  reservation_id
-- ARGV[4]  id_is_fresh           1 = made for this call, so no earlier one can have used it
-- ARGV[5]  fingerprint           of the request's payload
-- ARGV[6]  hold_ms               how long the hold lives, ms
-- ARGV[7]  chat_id               '' = none
-- ARGV[8]  parent_chat_id        '' = not said
-- ARGV[9]  spend_limit_micros    for a new chat; '' = none
-- ARGV[10] new_in                epoch in which durable storage has no such chat: create it;
--                                '' = not known
--
-- Reply, by position:
--   'admitted', reservation_id ('' = nothing held), held micros, expires_at ms, duplicate 0/1,
--               then held, limit 1, spent 1, limit 2, spent 2, … of the workspace,
--               and with a chat its id, parent, root, held, limit, spent, own
--   'denied', now ms, estimate micros, violations (see lib/violations.lua)
--   'id_reused' | 'settled', state letter | 'counter_overflow' | 'invalid', argument
--   'cold', 'workspace' | 'cold', 'chat', id, epoch | 'again' | 'chat_…' (see lib/chain.lua)
--
-- O(periods + depth). With nothing to evict or expire it touches no sorted set but `…:holds`,
-- and that only to hold.
--
-- limiter lua check > check.lua && redis-cli --eval check.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:stream' , 3600000 12000 r1 0 fp 600000 '' '' '' ''

-- include "args"
-- include "scope"
-- include "refresh"
-- include "chain"
-- include "decide"
-- include "outcome"
-- include "stream"

local memory_ms, hold_ms = amount(ARGV[1]), amount(ARGV[6])
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
local estimate = amount(ARGV[2])
if not estimate and ARGV[2] ~= '' then return { 'invalid', 'estimate_micros' } end
local id = ARGV[3]
if not is_id(id) then return { 'invalid', 'reservation_id' } end
if not hold_ms or hold_ms == 0 then return { 'invalid', 'hold_ms' } end
local chat_id, parent = ARGV[7], ARGV[8]
if chat_id ~= '' and not is_id(chat_id) then return { 'invalid', 'chat_id' } end
if parent ~= '' and not is_id(parent) then return { 'invalid', 'parent_chat_id' } end
local chat_limit
if ARGV[9] ~= '' then
  chat_limit = amount(ARGV[9])
  if not chat_limit or chat_limit == 0 then return { 'invalid', 'spend_limit_micros' } end
end

local workspace = read_workspace(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end

-- The chat and those above it, then the workspace: so a tree's limit is named before an account's.
local scopes, leaf = { workspace }, nil
if chat_id ~= '' then
  scopes, early = read_chain(workspace, chat_id, parent, chat_limit, ARGV[10])
  if not scopes then return early end
  leaf = scopes[1]
  scopes[#scopes + 1] = workspace
end

if ARGV[4] ~= '1' then
  -- include "memory"
  local hold = redis.call('HMGET', workspace.prefix .. ':hold:' .. id, 'micros', 'expires_at',
    'fingerprint')
  if hold[1] then
    if hold[3] ~= ARGV[5] then return { 'id_reused' } end
    return outcome('admitted', id, hold[1] + 0, hold[2] + 0, 1, workspace, leaf)
  end
  local letter = settled_state(workspace, now, id)
  if letter ~= 'u' then return { 'settled', letter } end
end

estimate = estimate or (redis.call('HGET', KEYS[1], 'default_estimate') or 0) + 0
local verdict = decide(scopes, estimate)
if verdict == 'denied' then
  -- include "violations"
  return { 'denied', now, estimate, violations(scopes, estimate, now, workspace.prefix .. ':holds') }
elseif verdict then
  return { verdict }
end

-- Nothing below can fail.
workspace.clock = now
if leaf and leaf.is_new then
  append(workspace, 'chat', now,
    'chat', chat_id, 'parent', leaf.parent, 'root', leaf.root, 'depth', leaf.depth,
    'limit', leaf.limit[1] or '')
end
if estimate == 0 then
  if leaf and leaf.is_new then
    save_chat(leaf)
    save_holds(workspace)
  end
  return outcome('admitted', '', 0, 0, 0, workspace, leaf)
end

local expires_at = now + hold_ms
redis.call('HSET', workspace.prefix .. ':hold:' .. id, 'micros', estimate, 'chat', chat_id,
  'expires_at', expires_at, 'fingerprint', ARGV[5])
redis.call('ZADD', workspace.prefix .. ':holds', expires_at, id)
if workspace.expire_at == 0 or expires_at < workspace.expire_at then
  workspace.expire_at, workspace.due_changed = expires_at, true
end
append(workspace, 'hold', now,
  'reservation', id, 'micros', estimate, 'expires_at', expires_at, 'chat', chat_id,
  'fingerprint', ARGV[5])
for i = 1, #scopes do scopes[i].held = scopes[i].held + estimate end
for i = 1, #scopes - 1 do
  local chat = scopes[i]
  if chat.is_new then save_chat(chat) else redis.call('HSET', chat.key, 'held', chat.held) end
end
save_holds(workspace)
return outcome('admitted', id, estimate, expires_at, 0, workspace, leaf)
