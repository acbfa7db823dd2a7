-- The decision, over any list of scopes.

-- decide(scopes, estimate): nil when the call fits, 'denied' when a limit binds, 'counter_overflow'
-- when a sum that no limit bounds would pass 2^53 - 1.
-- A limit denies when spent + held >= limit or spent + held + estimate > limit.
local function decide(scopes, estimate)
  local verdict = nil
  for s = 1, #scopes do
    local scope = scopes[s]
    local limits, spent, held = scope.limit, scope.spent, scope.held
    for i = 1, #limits do
      local limit, used = limits[i], spent[i] + held
      if limit then
        if used >= limit or used + estimate > limit then return 'denied' end
      elseif used + estimate > MICROS_MAX then
        verdict = 'counter_overflow'
      end
    end
  end
  return verdict
end
