-- The partition's stream: everything that must become durable, appended in the same step that
-- changes the counters. `seq` numbers a workspace's entries, so that a gap or a rewritten tail shows.

-- append(stream, scope, workspace, type, at, ...): pairs of field and value follow.
local function append(stream, scope, workspace, type, at, ...)
  scope.seq = scope.seq + 1
  redis.call('XADD', stream, '*', 'type', type, 'workspace', workspace, 'seq', scope.seq, 'at', at, ...)
end
