-- Holds: `…:holds`, a sorted set of reservation ids by expiry, and one hash `…:hold:<id>` each:
-- micros, chat, expires_at, fingerprint.

-- include "now"
-- include "memory"
-- include "stream"
-- include "scope"
-- include "chain"
-- include "window"

local EXPIRE_BATCH = 500 -- bounds one call to a few milliseconds; the caller is asked to call again

-- drop_hold(prefix, id)
local function drop_hold(prefix, id)
  redis.call('DEL', prefix .. ':hold:' .. id)
  redis.call('ZREM', prefix .. ':holds', id)
end

-- expire_holds(scope, now): gives back (or charges, by `on_hold_expiry`) every hold whose time
-- is over, and saves the workspace.
-- Returns nil, or a reply to return at once: {'cold', 'chat', id} with nothing changed, or
-- {'again'} when more than a batch was due. O(due * depth).
local function expire_holds(scope, now)
  local prefix = scope.prefix
  local ids = redis.call('ZRANGEBYSCORE', prefix .. ':holds', '-inf', now, 'LIMIT', 0, EXPIRE_BATCH)
  local holds, chains = {}, {}
  for i = 1, #ids do
    local hold = redis.call('HMGET', prefix .. ':hold:' .. ids[i], 'micros', 'chat')
    local micros, chat = tonumber(hold[1] or '0'), hold[2] or ''
    if chat ~= '' and not chains[chat] then
      local chain, reply = read_chain(scope, chat, '', nil, false)
      if not chain then return reply end
      chains[chat] = chain
    end
    holds[i] = { id = ids[i], micros = micros, chat = chat }
  end

  local charges = scope.on_hold_expiry == 'charge'
  for i = 1, #holds do
    local hold = holds[i]
    local charged = charges and hold.micros or 0
    scope.held = scope.held - hold.micros
    if charged > 0 then charge_windows(scope, charged, now) end
    local chain = chains[hold.chat] or {}
    for j = 1, #chain do
      redis.call('HINCRBY', chain[j].key, 'held', 0 - hold.micros)
      if charged > 0 then redis.call('HINCRBY', chain[j].key, 'spent.lifetime', charged) end
    end
    if charged > 0 and chain[1] then redis.call('HINCRBY', chain[1].key, 'own', charged) end
    drop_hold(prefix, hold.id)
    remember(scope, now, 'r:' .. hold.id,
      string.format('e:%.0f:%s', charged, hold.chat))
    append(scope, 'expire', now,
      'reservation', hold.id, 'charged', charged, 'chat', hold.chat)
  end

  local soonest = redis.call('ZRANGE', prefix .. ':holds', 0, 0, 'WITHSCORES')
  scope.expire_at = tonumber(soonest[2] or '0')
  scope.clock = now
  save_workspace(scope)
  if #holds == EXPIRE_BATCH then return { 'again' } end
  return nil
end

-- refresh(scope): the current time, after bringing the workspace up to it: what left the
-- windows is evicted, what expired is given back. Touches nothing while neither is due.
-- Returns now, or nil and a reply to return at once (see expire_holds).
local function refresh(scope)
  local now = now_ms(scope.clock)
  local evicts = scope.evict_at > 0 and scope.evict_at <= now
  if evicts then evict(scope, now) end
  if scope.expire_at > 0 and scope.expire_at <= now then
    local reply = expire_holds(scope, now)
    if reply then
      if evicts and reply[1] == 'cold' then scope.clock = now save_workspace(scope) end
      return nil, reply
    end
  elseif evicts then
    scope.clock = now
    save_workspace(scope)
  end
  return now
end
