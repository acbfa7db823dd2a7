-- What every entry point derives from its keys.

-- context(workspace_key, stream, memory_ms): the workspace's key is
-- `lim:{<partition>}:<workspace>:workspace`; all its other keys share the part before the last
-- colon, so one call stays in one cluster slot.
local function context(workspace_key, stream, memory_ms)
  local prefix = string.sub(workspace_key, 1, -11)
  return {
    prefix = prefix, stream = stream, memory_ms = memory_ms,
    workspace = string.match(prefix, '([^:]+)$'),
  }
end
