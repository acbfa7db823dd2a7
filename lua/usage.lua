-- usage: every counter of a workspace, or of a chat and its ancestors as well.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  chat_id               '' = none
--
-- Reply, by position:
--   'usage', now ms, workspace block, live holds, unpriced records,
--            per period: the moment at which it next frees something, ms, or '',
--            chat blocks from the chat up to its root
--   'invalid', argument | 'cold', 'workspace' | 'cold', 'chat', id | 'again'
-- A period that admits nothing frees something when it admits again; another when its oldest
-- bucket leaves.
--
-- O(periods * buckets + depth).
--
-- limiter lua usage > usage.lua && redis-cli --eval usage.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:stream' , 3600000 ''

-- include "args"
-- include "refresh"
-- include "chain"
-- include "blocks"
-- include "violations"

local memory_ms, chat_id = amount(ARGV[1]), ARGV[2]
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
if chat_id ~= '' and not is_id(chat_id) then return { 'invalid', 'chat_id' } end

local workspace = read_workspace(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end

local chats = {}
if chat_id ~= '' then
  local chain
  chain, early = read_chain(workspace, chat_id, '', nil, '')
  if not chain then return early end
  for i = 1, #chain do
    chain[i].root = chain[1].root
    chats[i] = chat_block(chain[i])
  end
end

local holds_key = workspace.prefix .. ':holds'
local frees_at = {}
for i = 1, #PERIODS do
  local limit, at = workspace.limit[i], nil
  if limit and workspace.spent[i] + workspace.held >= limit then
    at = retry(workspace, i, 0, holds_key)
  elseif workspace.spent[i] > 0 then
    at = freed_at(workspace, i, 1)
  end
  frees_at[i] = at or ''
end
return { 'usage', now, workspace_block(workspace), redis.call('ZCARD', holds_key),
  (redis.call('HGET', KEYS[1], 'unpriced') or 0) + 0, frees_at, chats }
