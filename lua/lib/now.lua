-- The only clock: the Redis server's.

-- now_ms(clock): milliseconds since 1970, never before `clock` (the scope's last write), so that
-- time does not step back when another server takes over.
local function now_ms(clock)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if now < clock then return clock end
  return now
end
