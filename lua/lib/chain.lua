-- A chat and its ancestors.

-- include "scope"

local DEPTH_MAX = 64

-- read_chain(workspace, id, parent, limit, new_in): the chat's scopes from itself up to its root.
--   parent '' = not said; limit nil = none; new_in: the epoch in which durable storage had no such
--   chat, '' = not asked. If that is the workspace's, it may be created here (in memory: the caller
--   saves it).
-- Returns the list, or nil and the reply that says why not:
--   {'cold', 'chat', id, epoch} / {'chat_parent_immutable'} / {'chat_cycle'} / {'chat_too_deep'}
-- O(depth), at most 64.
local function read_chain(workspace, id, parent, limit, new_in)
  local leaf = read_chat(workspace, id)
  if leaf then
    if parent ~= '' and parent ~= leaf.parent then return nil, { 'chat_parent_immutable' } end
  elseif new_in ~= workspace.epoch then
    return nil, { 'cold', 'chat', id, workspace.epoch }
  elseif parent == id then
    return nil, { 'chat_cycle' }
  else
    leaf = {
      key = workspace.prefix .. ':chat:' .. id, held = 0, limit = { limit or false }, spent = { 0 },
      id = id, parent = parent, own = 0, epoch = workspace.epoch, is_new = true,
    }
  end
  local chain = { leaf }
  local above = leaf.parent
  while above ~= '' do
    local node = read_chat(workspace, above)
    if not node then return nil, { 'cold', 'chat', above, workspace.epoch } end
    chain[#chain + 1] = node
    if #chain > DEPTH_MAX then return nil, { 'chat_too_deep' } end
    above = node.parent
  end
  leaf.root, leaf.depth = chain[#chain].id, #chain
  return chain
end
