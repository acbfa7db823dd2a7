-- Scopes: what limits and counters hang on. A workspace's windows roll; a chat counts for its
-- lifetime. Both are one hash with `limit.<period>`, `spent.<period>` and `held`, and both come
-- back as the same kind of table, so that one loop decides over a list of them:
--   key, held, limit[i] (false: unlimited), spent[i]
--
-- A workspace's `epoch` is a number that no other load of it had. A chat of another epoch was loaded
-- for a life of the workspace that is over, and is as good as not there.
--
-- Every field that is read costs a search in its hash and a string, and a number as much again to be
-- parsed: scripts read what they need, and parse by `+ 0`, which takes a third of tonumber's time.

-- include "args"
-- include "counters"

-- read_workspace(key, stream, memory_ms): the workspace's scope, or nil when it is cold. O(1).
local function read_workspace(key, stream, memory_ms)
  local f = read_counters(key)
  return f[1] and as_workspace(key, stream, memory_ms, f) or nil
end

-- save_holds(scope): writes what a hold changes of a workspace, what is due when only where it says
-- so. Numbers go to Redis as call arguments, which it renders with 17 significant digits: exact to
-- 2^53.
local function save_holds(scope)
  redis.call('HSET', scope.key, 'clock', scope.clock, 'seq', scope.seq, 'held', scope.held)
  if scope.due_changed then redis.call('HSET', scope.key, 'expire_at', scope.expire_at) end
end

-- read_chat(workspace, id): the chat's scope, or nil when it is cold. O(1).
local function read_chat(workspace, id)
  local chats = workspace.chats
  if chats and chats[id] then return chats[id] end
  local key = workspace.prefix .. ':chat:' .. id
  local f = redis.call('HMGET', key, 'held', 'spent.lifetime', 'own', 'epoch', 'parent',
    'limit.lifetime')
  if f[4] ~= workspace.epoch then return nil end
  local chat = {
    key = key, held = f[1] + 0, limit = { f[6] and f[6] + 0 }, spent = { f[2] + 0 },
    id = id, parent = f[5], own = f[3] + 0,
  }
  if chats then chats[id] = chat end
  return chat
end

-- save_chat(chat): writes its counters; all of it when it is new.
local function save_chat(chat)
  if not chat.is_new then
    redis.call('HSET', chat.key, 'held', chat.held, 'spent.lifetime', chat.spent[1], 'own', chat.own)
    return
  end
  redis.call('DEL', chat.key) -- of an earlier epoch
  redis.call('HSET', chat.key, 'held', chat.held, 'spent.lifetime', chat.spent[1],
    'own', chat.own, 'epoch', chat.epoch, 'parent', chat.parent, 'root', chat.root,
    'depth', chat.depth)
  if chat.limit[1] then redis.call('HSET', chat.key, 'limit.lifetime', chat.limit[1]) end
end
