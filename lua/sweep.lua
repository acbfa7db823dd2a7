-- sweep: removes what a forgotten workspace left behind: chats and sources of an earlier epoch, which
-- no call reads any more. What the workspace has loaded since is kept.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2…] chats and sources     lim:{<partition>}:<workspace>:chat:<id> or …:source:<id>
--
-- Reply, by position:
--   'swept', how many
-- All chats and sources of a cold workspace are of an earlier epoch: a load begins a new one.
--
-- O(keys).
--
-- limiter lua sweep > sweep.lua && redis-cli --eval sweep.lua \
--   'lim:{0}:acme:workspace' 'lim:{0}:acme:chat:c1' 'lim:{0}:acme:source:worker-7'

local epoch = redis.call('HGET', KEYS[1], 'epoch')
local stale = {}
for i = 2, #KEYS do
  local of = redis.call('HGET', KEYS[i], 'epoch')
  if not epoch or of ~= epoch then stale[#stale + 1] = KEYS[i] end
end

local swept = 0
for i = 1, #stale do swept = swept + redis.call('UNLINK', stale[i]) end
return { 'swept', swept }
