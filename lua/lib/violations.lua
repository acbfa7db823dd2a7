-- Why a call is denied, and when it will fit.

-- include "periods"
-- include "window"

-- retry(scope, i, estimate, holds_key): when this estimate fits limit i again.
-- Returns the moment (nil: waiting alone never helps, or nobody can say when) and whether the
-- violation is transient at all. O(buckets).
local function retry(scope, i, estimate, holds_key)
  local limit = scope.limit[i]
  if limit == 0 or estimate > limit then return nil, false end
  local spent, held = scope.spent[i], scope.held
  -- Blocked at spent + held >= limit as well, so at least one micro has to stay free.
  local excess = spent + held - limit + math.max(estimate, 1)
  local holds_alone = excess <= held
  if not scope.rolls then return nil, holds_alone end
  local next_expiry = (redis.call('ZRANGE', holds_key, 0, 0, 'WITHSCORES')[2] or 0) + 0
  if holds_alone then return next_expiry, true end
  local at = freed_at(scope, i, excess)
  if at then return at, true end
  -- The holds must go as well; only the spend says by itself when it does.
  return math.max(freed_at(scope, i, excess - held), next_expiry), true
end

-- violations(scopes, estimate, now, holds_key): every limit that binds, in the order of the scopes:
--   {kind, id, period, reason, limit, spent, held, retry_after_ms or '', transient 0/1}
local function violations(scopes, estimate, now, holds_key)
  local list = {}
  for s = 1, #scopes do
    local scope = scopes[s]
    local kind, names = 'workspace', PERIODS
    if not scope.rolls then kind, names = 'chat', LIFETIME end
    for i = 1, #names do
      local limit = scope.limit[i]
      local used = scope.spent[i] + scope.held
      if limit and (used >= limit or used + estimate > limit) then
        local reason = 'limit_exceeded'
        if limit == 0 then
          reason = 'blocked'
        elseif estimate > limit then
          reason = 'estimate_exceeds_limit'
        end
        local at, transient = retry(scope, i, estimate, holds_key)
        list[#list + 1] = {
          kind, scope.id or '', names[i], reason, limit, scope.spent[i], scope.held,
          at and at - now or '', transient and 1 or 0,
        }
      end
    end
  end
  return list
end
