-- Remembered ids: what makes a retry harmless. One hash per slice of time, `…:events:<start_ms>`,
-- which expires as a whole, so an id is remembered for one to two times `memory_ms`. Fields:
--   e:<event id>        "<fingerprint>:<charged micros>:<state letter>", and ":<chat id>" where the
--                       event has its reservation's id, and stands for both
--   r:<reservation id>  "<state letter>:<charged micros>:<chat id>", once it is no longer held
-- State letters: h held, r recorded, l released, e expired, u unknown, - none.

-- slice_key(prefix, at, memory_ms)
local function slice_key(prefix, at, memory_ms)
  return string.format('%s:events:%.0f', prefix, at - at % memory_ms)
end

-- recall(workspace, now, ...): the values of up to two fields, or false. O(1).
local function recall(workspace, now, ...)
  local prefix, memory_ms = workspace.prefix, workspace.memory_ms
  local young = redis.call('HMGET', slice_key(prefix, now, memory_ms), ...)
  local old = redis.call('HMGET', slice_key(prefix, now - memory_ms, memory_ms), ...)
  return young[1] or old[1], young[2] or old[2]
end

-- settled_state(workspace, now, id): a reservation that is not held: its state letter, what its expiry
-- was charged, and its chat ('' = none or not known). A record under the reservation's own id
-- leaves only the event.
local function settled_state(workspace, now, id)
  local settled, recorded = recall(workspace, now, 'r:' .. id, 'e:' .. id)
  if settled then
    local letter, charged, chat = string.match(settled, '^(%a):(%d+):(.*)$')
    return letter, tonumber(charged), chat
  end
  if not recorded then return 'u', 0, '' end
  return 'r', 0, string.match(recorded, '^[^:]*:%d+:.:?(.*)$')
end

-- remember(workspace, now, field, value): the caller saves the workspace.
local function remember(workspace, now, field, value)
  local memory_ms = workspace.memory_ms
  local key = slice_key(workspace.prefix, now, memory_ms)
  redis.call('HSET', key, field, value)
  local slice = string.format('%.0f', now - now % memory_ms)
  if workspace.memory_at ~= slice then
    redis.call('PEXPIRE', key, 2 * memory_ms)
    workspace.memory_at, workspace.due_changed = slice, true
  end
end
