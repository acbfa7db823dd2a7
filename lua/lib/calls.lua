-- Several calls of one workspace in one script call: each has a reply of its own, what they share
-- is read and written once. Until all are through, changed scopes are in memory only.

-- each_call(workspace, width, call): `call` of ARGV[2…], `width` arguments for each call. Returns
-- its reply where there is one call, else a list of replies.
local function each_call(workspace, width, call)
  if #ARGV <= 1 + width then return call(unpack(ARGV, 2)) end
  workspace.chats = {}
  local replies = {}
  for at = 2, #ARGV, width do
    -- A call that fails, because somebody put a value of another type in its way, fails alone.
    local is_through, reply = pcall(call, unpack(ARGV, at, at + width - 1))
    if not is_through and type(reply) == 'string' then reply = redis.error_reply(reply) end
    replies[#replies + 1] = reply
  end
  return replies
end
