-- A chat and its ancestors.

-- include "scope"

local DEPTH_MAX = 64

-- read_chain(workspace, id, parent, limit, is_new): the chat's scopes from itself up to its root.
--   parent '' = not said; limit nil = none; is_new: durable storage has no such chat, so it may be
--   created here (in memory: the caller saves it).
-- Returns the list, or nil and the reply that says why not:
--   {'cold', 'chat', id} / {'chat_parent_immutable'} / {'chat_cycle'} / {'chat_too_deep'}
-- O(depth), at most 64.
local function read_chain(workspace, id, parent, limit, is_new)
  local leaf = read_chat(workspace, id)
  if leaf then
    if parent ~= '' and parent ~= leaf.parent then return nil, { 'chat_parent_immutable' } end
  elseif not is_new then
    return nil, { 'cold', 'chat', id }
  elseif parent == id then
    return nil, { 'chat_cycle' }
  else
    leaf = {
      key = workspace.prefix .. ':chat:' .. id, kind = 'chat', id = id, names = LIFETIME, is_new = true,
      epoch = workspace.epoch,
      held = 0, limit = { limit or false }, spent = { 0 }, own = 0,
      parent = parent, root = id, depth = 1,
    }
  end
  local chain = { leaf }
  local node = leaf
  while node.parent ~= '' do
    local above = read_chat(workspace, node.parent)
    if not above then return nil, { 'cold', 'chat', node.parent } end
    chain[#chain + 1] = above
    if #chain > DEPTH_MAX then return nil, { 'chat_too_deep' } end
    node = above
  end
  if leaf.is_new and chain[2] then
    leaf.root = chain[2].root
    leaf.depth = chain[2].depth + 1
  end
  return chain
end
