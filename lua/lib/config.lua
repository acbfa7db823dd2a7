-- Which fields of a scope are configuration, and what they may hold.

-- include "args"
-- include "periods"

-- A workspace's configuration, in the order in which it is first written.
local CONFIG_FIELDS = {}
for i = 1, #PERIODS do CONFIG_FIELDS[i] = 'limit.' .. PERIODS[i] end
CONFIG_FIELDS[#CONFIG_FIELDS + 1] = 'default_estimate'
CONFIG_FIELDS[#CONFIG_FIELDS + 1] = 'on_hold_expiry'

-- is_config(field, value): '' removes the field.
local function is_config(field, value)
  if field == 'on_hold_expiry' then
    return value == '' or value == 'refund' or value == 'charge'
  end
  local period = string.match(field, '^limit%.(.+)$')
  if not period and field ~= 'default_estimate' then return false end
  local micros = amount(value)
  if value ~= '' and not micros then return false end
  if not period then return true end
  if period == LIFETIME[1] then return micros ~= 0 end
  for i = 1, #PERIODS do
    if PERIODS[i] == period then return true end
  end
  return false
end
