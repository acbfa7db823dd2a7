-- Creating a chat.

-- include "stream"

-- create_chat(workspace, chat, now): what read_chain made becomes real. The caller saves the
-- workspace.
local function create_chat(workspace, chat, now)
  append(workspace, 'chat', now,
    'chat', chat.id, 'parent', chat.parent, 'root', chat.root, 'depth', chat.depth,
    'limit', chat.limit[1] or '')
  save_chat(chat)
  chat.is_new, workspace.is_changed = nil, true
  if workspace.chats then workspace.chats[chat.id] = chat end
end
