-- trim: removes from a stream what is in durable storage by now: all up to one entry.
--
-- Whoever trims has read the stream from its beginning, so nothing else is older. That is no longer
-- so when Redis was emptied since and the stream began anew: then what was read first is not there,
-- and nothing is removed.
--
-- KEYS[1]  the partition's stream
-- ARGV[1]  first                 stream id of an entry that was read and must still be there
-- ARGV[2]  last                  stream id of the last entry that was read
--
-- Reply, by position:
--   'trimmed', how many entries were removed
--   'invalid', argument
--
-- O(log(entries) + entries that go).
--
-- limiter lua trim > trim.lua && redis-cli --eval trim.lua 'lim:{0}:stream' , \
--   1795334400000-0 1795334400000-7

-- include "entry"

if not is_entry(ARGV[1]) then return { 'invalid', 'first' } end
if not is_entry(ARGV[2]) then return { 'invalid', 'last' } end

if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return { 'trimmed', 0 } end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
return { 'trimmed', removed + redis.call('XDEL', KEYS[1], ARGV[2]) }
