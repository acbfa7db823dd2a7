-- load_workspace: puts a cold workspace back as durable storage knows it, unless it is there.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- ARGV[1]  the workspace as JSON; amounts and times are strings of digits:
--   config    {field: value}     as for configure
--   revision  of the configuration
--   seq       of the last entry that durable storage has
--   spent_at  of the last charge, ms; "0" = none
--   clock     the latest moment that durable storage knows of, ms
--   unpriced  records whose model had no price
--   windows   {period: [[start ms, micros], …]}
--   holds     [[reservation id, micros, expires_at ms, chat id, fingerprint], …]
--   events    [[event id, fingerprint, charged micros], …] in the windows already: to be remembered,
--             because their records may still be on their way here
-- ARGV[2]  epoch                a number that no other load of this workspace had, > 0
-- ARGV[3]  memory_ms            how long ids are remembered, ms
--
-- Reply, by position:
--   'loaded' | 'present' | 'invalid', what
--
-- O(buckets + holds + events).
--
-- limiter lua load_workspace > load_workspace.lua && redis-cli --eval load_workspace.lua \
--   'lim:{0}:acme:workspace' , '{"config":{"limit.hourly":"2000000"},"revision":"1",
--   "seq":"0","spent_at":"0","clock":"0","unpriced":"0","windows":{},"holds":[],
--   "events":[]}' 4711 3600000

-- include "args"
-- include "now"
-- include "config"
-- include "charge"
-- include "memory"

-- Of JSON, only a text can be one.
local function digits(value) return type(value) == 'string' and amount(value) or nil end
local function name(value) return type(value) == 'string' and is_id(value) end

local ok, stored = pcall(cjson.decode, ARGV[1])
if not ok or type(stored) ~= 'table' then return { 'invalid', 'json' } end
for _, part in ipairs({ 'config', 'windows', 'holds', 'events' }) do
  if type(stored[part]) ~= 'table' then return { 'invalid', part } end
end
for field, value in pairs(stored.config) do
  if type(field) ~= 'string' or type(value) ~= 'string' or not is_config(field, value) then return { 'invalid', field } end
end
local revision, seq, clock = digits(stored.revision), digits(stored.seq), digits(stored.clock)
local spent_at, unpriced = digits(stored.spent_at), digits(stored.unpriced)
if not (revision and seq and clock and spent_at and unpriced) then return { 'invalid', 'counters' } end
local epoch, memory_ms = amount(ARGV[2]), amount(ARGV[3])
if not epoch or epoch == 0 then return { 'invalid', 'epoch' } end
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'present' } end

local prefix = string.sub(KEYS[1], 1, -11)
local now = now_ms(math.max(clock, spent_at))
local scope = {
  key = KEYS[1], rolls = true, clock = now, seq = seq, held = 0, spent_at = spent_at,
  evict_at = 0, expire_at = 0, memory_at = '', due_changed = true, spent = {}, open = {},
  prefix = prefix, memory_ms = memory_ms,
}
local closed = {}
for i = 1, #PERIODS do
  scope.spent[i], scope.open[i], closed[i] = 0, 0, {}
  local width = BUCKET_MS[i]
  local buckets = stored.windows[PERIODS[i]]
  if buckets == nil then buckets = {} end
  if type(buckets) ~= 'table' then return { 'invalid', 'windows' } end
  for _, bucket in ipairs(buckets) do
    if type(bucket) ~= 'table' then return { 'invalid', 'windows' } end
    local start, micros = digits(bucket[1]), digits(bucket[2])
    if not start or not micros or start % width ~= 0 then return { 'invalid', 'windows' } end
    local leaves_at = start + width + WINDOW_MS[i]
    if leaves_at > now and micros > 0 then
      scope.spent[i] = scope.spent[i] + micros
      if scope.evict_at == 0 or leaves_at < scope.evict_at then scope.evict_at = leaves_at end
      if start == spent_at - spent_at % width then
        scope.open[i] = micros
      else
        closed[i][#closed[i] + 1] = { start, micros }
      end
    end
  end
end
for _, hold in ipairs(stored.holds) do
  if type(hold) ~= 'table' then return { 'invalid', 'holds' } end
  local micros, expires_at = digits(hold[2]), digits(hold[3])
  if not (name(hold[1]) and micros and expires_at and (hold[4] == '' or name(hold[4]))
      and type(hold[5]) == 'string') then
    return { 'invalid', 'holds' }
  end
  scope.held = scope.held + micros
  if scope.expire_at == 0 or expires_at < scope.expire_at then scope.expire_at = expires_at end
end
for _, event in ipairs(stored.events) do
  if type(event) ~= 'table' or not name(event[1]) or type(event[2]) ~= 'string'
      or string.find(event[2], ':', 1, true) or not digits(event[3]) then
    return { 'invalid', 'events' }
  end
end
for i = 1, #PERIODS do
  if scope.spent[i] + scope.held > MICROS_MAX then return { 'invalid', 'sums' } end
end

-- Nothing below can fail.
for i = 1, #PERIODS do
  local key = KEYS[1] .. ':' .. PERIODS[i]
  redis.call('DEL', key)
  for _, bucket in ipairs(closed[i]) do
    redis.call('ZADD', key, bucket[1], string.format('%.0f:%.0f', bucket[1], bucket[2]))
  end
end
redis.call('DEL', prefix .. ':holds')
for _, hold in ipairs(stored.holds) do
  redis.call('HSET', prefix .. ':hold:' .. hold[1], 'micros', tonumber(hold[2]), 'chat', hold[4],
    'expires_at', tonumber(hold[3]), 'fingerprint', hold[5])
  redis.call('ZADD', prefix .. ':holds', tonumber(hold[3]), hold[1])
end
-- The order of the fields stays as it is made here, and what comes first is found soonest.
redis.call('HSET', KEYS[1], 'clock', now, 'seq', seq, 'held', scope.held, 'evict_at', scope.evict_at,
  'expire_at', scope.expire_at, 'epoch', epoch)
for i = 1, #CONFIG_FIELDS do
  local value = stored.config[CONFIG_FIELDS[i]] or ''
  if value ~= '' then redis.call('HSET', KEYS[1], CONFIG_FIELDS[i], value) end
end
for _, event in ipairs(stored.events) do
  remember(scope, now, 'e:' .. event[1], event[2] .. ':' .. event[3] .. ':-')
end
save_workspace(scope)
redis.call('HSET', KEYS[1], 'revision', revision, 'unpriced', unpriced)
return { 'loaded' }
