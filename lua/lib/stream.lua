-- The partition's stream: everything that must become durable, appended in the same step that
-- changes the counters. `seq` numbers a workspace's entries, so that a gap or a rewritten tail shows.

-- append(workspace, type, at, ...): pairs of field and value follow. The caller saves the workspace.
local function append(workspace, type, at, ...)
  local seq = workspace.seq + 1
  redis.call('XADD', workspace.stream, '*', 'type', type,
    'workspace', string.match(workspace.prefix, '[^:]+$'), 'seq', seq, 'at', at, ...)
  workspace.seq = seq -- only now: a call that fails must leave no gap for those beside it
end
