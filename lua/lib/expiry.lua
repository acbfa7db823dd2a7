-- What is due: buckets that left their windows, holds whose time is over.

-- include "memory"
-- include "stream"
-- include "chain"
-- include "holds"
-- include "charge"
-- include "window"

local EXPIRE_BATCH = 500 -- bounds one call to a few milliseconds; the caller is asked to call again

-- expire_holds(scope, now): gives back (or charges, by `on_hold_expiry`) every hold whose time
-- is over, and saves the workspace.
-- Returns nil, or a reply to return at once: {'cold', 'chat', id, epoch} with nothing changed, or
-- {'again'} when more than a batch was due. O(due * depth).
local function expire_holds(scope, now)
  local prefix = scope.prefix
  local ids = redis.call('ZRANGEBYSCORE', prefix .. ':holds', '-inf', now, 'LIMIT', 0, EXPIRE_BATCH)
  local holds, chains = {}, {}
  for i = 1, #ids do
    local hold = redis.call('HMGET', prefix .. ':hold:' .. ids[i], 'micros', 'chat')
    local micros, chat = (hold[1] or 0) + 0, hold[2] or ''
    if chat ~= '' and not chains[chat] then
      local chain, reply = read_chain(scope, chat, '', nil, '')
      if not chain then return reply end
      chains[chat] = chain
    end
    holds[i] = { id = ids[i], micros = micros, chat = chat }
  end

  local charges = redis.call('HGET', scope.key, 'on_hold_expiry') == 'charge'
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
  scope.expire_at, scope.due_changed = (soonest[2] or 0) + 0, true
  scope.clock = now
  save_workspace(scope)
  if #holds == EXPIRE_BATCH then return { 'again' } end
  return nil
end

-- settle_due(scope, now): evicts and expires what is due now.
-- Returns now, or nil and a reply to return at once (see expire_holds).
local function settle_due(scope, now)
  need_open(scope)
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
