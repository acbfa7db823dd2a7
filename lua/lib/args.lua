-- Validation of arguments: the second wall behind the service's own.

local find = string.find
local MICROS_MAX = 9007199254740991 -- 2^53 - 1: up to here Lua's numbers are exact

-- amount(text): an integer in 0 .. 2^53 - 1, or nil.
-- Only digits are let through: tonumber alone would take "0x10", " 12 ", "1e3" and "nan",
-- and no comparison with a nan is ever true.
local function amount(text)
  if not text or #text > 16 or not find(text, '^%d+$') then return nil end
  local number = text + 0
  if number > MICROS_MAX then return nil end
  return number
end

-- is_id(text): only characters that can neither leave a key's segment nor a log line.
local function is_id(text)
  return text and #text <= 128 and find(text, '^[%w._@-]+$')
end
