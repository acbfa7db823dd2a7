-- check: may a call be made? Admits and holds its estimate on every scope, or changes nothing.
-- Several calls of a workspace can be made at once: each is decided after the one before it.
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
-- ARGV[11…]                      further calls: their nine arguments from estimate_micros on
--
-- Reply, by position:
--   'admitted', reservation_id ('' = nothing held), held micros, expires_at ms, duplicate 0/1,
--               then held, limit 1, spent 1, limit 2, spent 2, … of the workspace,
--               and with a chat its id, parent, root, held, limit, spent, own
--   'denied', now ms, estimate micros, violations (see lib/violations.lua)
--   'id_reused' | 'settled', state letter | 'counter_overflow' | 'invalid', argument
--   'cold', 'workspace' | 'cold', 'chat', id, epoch | 'again' | 'chat_…' (see lib/chain.lua)
-- To several calls: a list of such replies, or one for all of them, where the workspace is not
-- ready for any.
--
-- O(periods + depth), for each call. With nothing to evict or expire it touches no sorted set but
-- `…:holds`, and that only to hold.
--
-- limiter lua check > check.lua && redis-cli --eval check.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:stream' , 3600000 12000 r1 0 fp 600000 '' '' '' ''

-- include "args"
-- include "scope"
-- include "refresh"
-- include "chain"
-- include "calls"
-- include "decide"
-- include "outcome"
-- include "stream"

local memory_ms = amount(ARGV[1])
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
local workspace = read_workspace(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end
local changed = {} -- chats

local function check(
  estimate_text, id, is_fresh, fingerprint, hold_text, chat_id, parent, limit_text, new_in
)
  local estimate, hold_ms = amount(estimate_text), amount(hold_text)
  if not estimate and estimate_text ~= '' then return { 'invalid', 'estimate_micros' } end
  if not is_id(id) then return { 'invalid', 'reservation_id' } end
  if not hold_ms or hold_ms == 0 then return { 'invalid', 'hold_ms' } end
  if chat_id ~= '' and not is_id(chat_id) then return { 'invalid', 'chat_id' } end
  if parent ~= '' and not is_id(parent) then return { 'invalid', 'parent_chat_id' } end
  local chat_limit
  if limit_text ~= '' then
    chat_limit = amount(limit_text)
    if not chat_limit or chat_limit == 0 then return { 'invalid', 'spend_limit_micros' } end
  end

  -- The chat and those above it, then the workspace: so a tree's limit is named before an account's.
  local scopes, leaf = { workspace }, nil
  if chat_id ~= '' then
    local reply
    scopes, reply = read_chain(workspace, chat_id, parent, chat_limit, new_in)
    if not scopes then return reply end
    leaf = scopes[1]
    scopes[#scopes + 1] = workspace
  end

  if is_fresh ~= '1' then
    -- include "memory"
    local hold = redis.call('HMGET', workspace.prefix .. ':hold:' .. id, 'micros', 'expires_at',
      'fingerprint')
    if hold[1] then
      if hold[3] ~= fingerprint then return { 'id_reused' } end
      return outcome('admitted', id, hold[1] + 0, hold[2] + 0, 1, workspace, leaf)
    end
    local letter = settled_state(workspace, now, id)
    if letter ~= 'u' then return { 'settled', letter } end
  end

  -- As text it goes to Redis as it is; a number is written out first, at each place.
  local micros = estimate_text
  if not estimate then
    micros = redis.call('HGET', KEYS[1], 'default_estimate') or '0'
    estimate = micros + 0
  end
  local verdict = decide(scopes, estimate)
  if verdict == 'denied' then
    -- include "violations"
    return {
      'denied', now, estimate, violations(scopes, estimate, now, workspace.prefix .. ':holds'),
    }
  elseif verdict then
    return { verdict }
  end

  -- Nothing below can fail.
  if leaf and leaf.is_new then
    -- include "create"
    create_chat(workspace, leaf, now)
  end
  if estimate == 0 then return outcome('admitted', '', 0, 0, 0, workspace, leaf) end

  local expires_at = now + hold_ms
  redis.call('HSET', workspace.prefix .. ':hold:' .. id, 'micros', micros, 'chat', chat_id,
    'expires_at', expires_at, 'fingerprint', fingerprint)
  redis.call('ZADD', workspace.prefix .. ':holds', expires_at, id)
  if workspace.expire_at == 0 or expires_at < workspace.expire_at then
    workspace.expire_at, workspace.due_changed = expires_at, true
  end
  append(workspace, 'hold', now,
    'reservation', id, 'micros', micros, 'expires_at', expires_at, 'chat', chat_id,
    'fingerprint', fingerprint)
  workspace.is_changed = true
  for i = 1, #scopes do
    local scope = scopes[i]
    scope.held = scope.held + estimate
    if not scope.is_changed then
      scope.is_changed = true
      changed[#changed + 1] = scope
    end
  end
  return outcome('admitted', id, estimate, expires_at, 0, workspace, leaf)
end

local reply = each_call(workspace, 9, check)
for i = 1, #changed do redis.call('HSET', changed[i].key, 'held', changed[i].held) end
if workspace.is_changed then
  workspace.clock = now
  save_holds(workspace)
end
return reply
