-- Bringing a workspace up to the present.

-- include "now"

-- refresh(scope): the current time, after bringing the workspace up to it. Touches nothing while
-- nothing is due.
-- Returns now, or nil and a reply to return at once (see settle_due).
local function refresh(scope)
  local now, evict_at, expire_at = now_ms(scope.clock), scope.evict_at, scope.expire_at
  if (evict_at == 0 or now < evict_at) and (expire_at == 0 or now < expire_at) then return now end
  -- include "expiry"
  return settle_due(scope, now)
end
