-- Ids of stream entries.

-- include "args"

-- is_entry(text): two amounts with a dash between them.
local function is_entry(text)
  local at, number = string.match(text or '', '^(%d+)%-(%d+)$')
  return amount(at) and amount(number)
end
