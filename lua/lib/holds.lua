-- Holds: `…:holds`, a sorted set of reservation ids by expiry, and one hash `…:hold:<id>` each:
-- micros, chat, expires_at, fingerprint.

-- drop_hold(prefix, id)
local function drop_hold(prefix, id)
  redis.call('DEL', prefix .. ':hold:' .. id)
  redis.call('ZREM', prefix .. ':holds', id)
end
