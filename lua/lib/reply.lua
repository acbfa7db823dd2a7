-- Blocks that several replies share. Only strings and integers; '' stands for null.

-- workspace_block(scope): {held, limit 1, spent 1, limit 2, spent 2, …} in the periods' order
local function workspace_block(scope)
  local block = { scope.held }
  for i = 1, #scope.names do
    block[2 * i] = scope.limit[i] or ''
    block[2 * i + 1] = scope.spent[i]
  end
  return block
end

-- chat_block(scope): {id, parent, root, depth, held, limit, spent, own}
local function chat_block(scope)
  return {
    scope.id, scope.parent, scope.root, scope.depth, scope.held,
    scope.limit[1] or '', scope.spent[1], scope.own,
  }
end
