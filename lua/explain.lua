-- explain: would a call be admitted now, and if not, what binds, and until when? It decides as
-- check does, but holds, creates and remembers nothing. What is due is settled first.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  estimate_micros       '' = the workspace's configured default
-- ARGV[3]  chat_id               '' = none
--
-- Reply, by position:
--   'explained', now ms, estimate micros, violations (see lib/violations.lua), workspace block,
--                chat blocks from the chat up to its root
--   'counter_overflow' | 'invalid', argument
--   'cold', 'workspace' | 'cold', 'chat', id, epoch | 'again'
--
-- O(periods * buckets + depth).
--
-- limiter lua explain > explain.lua && redis-cli --eval explain.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:stream' , 3600000 12000 ''

-- include "args"
-- include "refresh"
-- include "chain"
-- include "blocks"
-- include "decide"
-- include "violations"

local memory_ms, estimate, chat_id = amount(ARGV[1]), amount(ARGV[2]), ARGV[3]
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
if not estimate and ARGV[2] ~= '' then return { 'invalid', 'estimate_micros' } end
if chat_id ~= '' and not is_id(chat_id) then return { 'invalid', 'chat_id' } end

local workspace = read_workspace(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end

local scopes, chats = {}, {}
if chat_id ~= '' then
  scopes, early = read_chain(workspace, chat_id, '', nil, '')
  if not scopes then return early end
  for i = 1, #scopes do
    scopes[i].root = scopes[1].root
    chats[i] = chat_block(scopes[i])
  end
end
scopes[#scopes + 1] = workspace

estimate = estimate or (redis.call('HGET', KEYS[1], 'default_estimate') or 0) + 0
local verdict, binding = decide(scopes, estimate), {}
if verdict == 'denied' then
  binding = violations(scopes, estimate, now, workspace.prefix .. ':holds')
elseif verdict then
  return { verdict }
end
return { 'explained', now, estimate, binding, workspace_block(workspace), chats }
