-- record: charges what a call cost to every scope, once per event id, and settles its hold.
-- Several records of a workspace can be made at once, each after the one before it.
--
-- KEYS[1]  workspace scope       lim:{<partition>}:<workspace>:workspace
-- KEYS[2]  the partition's stream
-- ARGV[1]  memory_ms             how long ids are remembered, ms
-- ARGV[2]  event_id
-- ARGV[3]  id_is_fresh           1 = made for this call, so no earlier one can have used it
-- ARGV[4]  fingerprint           of the request's payload
-- ARGV[5]  cost_micros           or, with a source, its running total in micros
-- ARGV[6]  reservation_id        '' = none
-- ARGV[7]  chat_id               '' = the reservation's, or none
-- ARGV[8]  parent_chat_id        '' = not said
-- ARGV[9]  spend_limit_micros    for a new chat; '' = none
-- ARGV[10] new_in                epoch in which durable storage has no such chat: create it;
--                                '' = not known
-- ARGV[11] source                '' = ARGV[5] is a cost, not a running total
-- ARGV[12] sequence              of the source's report; '' = it has none
-- ARGV[13] stored_total          what durable storage knows of the source, micros; '' = not asked
-- ARGV[14] stored_sequence       likewise; '' = none
-- ARGV[15] stored_in             epoch in which durable storage was asked; '' = not asked
-- ARGV[16] priced                0 = the model had no price
-- ARGV[17] data                  for the ledger only: what was used, as JSON
-- ARGV[18…]                      further records: their sixteen arguments from event_id on
--
-- Reply, by position:
--   'recorded', now ms, charged micros, duplicate 0/1, state letter the reservation was in
--               (lib/memory.lua),
--               then held, limit 1, spent 1, limit 2, spent 2, … of the workspace,
--               and with a chat its id, parent, root, held, limit, spent, own
--   'id_reused' | 'reservation_chat' | 'counter_overflow' | 'invalid', argument
--   'cold', 'workspace' | 'cold', 'chat', id, epoch | 'cold', 'source', id, epoch | 'again' |
--   'chat_…' (lib/chain.lua)
-- To several records: a list of such replies, or one for all of them, where the workspace is not
-- ready for any.
--
-- O(periods + depth), for each.
--
-- limiter lua record > record.lua && redis-cli --eval record.lua 'lim:{0}:acme:workspace' \
--   'lim:{0}:stream' , 3600000 e1 0 fp 9000 '' '' '' '' '' '' '' '' '' '' 1 ''

-- include "args"
-- include "refresh"
-- include "chain"
-- include "calls"
-- include "charge"
-- include "holds"
-- include "memory"
-- include "outcome"
-- include "stream"

local memory_ms = amount(ARGV[1])
if not memory_ms or memory_ms == 0 then return { 'invalid', 'memory_ms' } end
local workspace = read_to_charge(KEYS[1], KEYS[2], memory_ms)
if not workspace then return { 'cold', 'workspace' } end
local now, early = refresh(workspace)
if not now then return early end
local changed = {} -- chats

local function record(
  event_id, is_fresh, fingerprint, cost_text, reservation_id, chat_id, parent, limit_text, new_in,
  source, sequence_text, total_text, stored_sequence_text, stored_in, priced, data
)
  local cost = amount(cost_text)
  if not is_id(event_id) then return { 'invalid', 'event_id' } end
  if not cost then return { 'invalid', 'cost_micros' } end
  if reservation_id ~= '' and not is_id(reservation_id) then
    return { 'invalid', 'reservation_id' }
  end
  if chat_id ~= '' and not is_id(chat_id) then return { 'invalid', 'chat_id' } end
  if parent ~= '' and not is_id(parent) then return { 'invalid', 'parent_chat_id' } end
  local chat_limit
  if limit_text ~= '' then
    chat_limit = amount(limit_text)
    if not chat_limit or chat_limit == 0 then return { 'invalid', 'spend_limit_micros' } end
  end
  if source ~= '' and not is_id(source) then return { 'invalid', 'source' } end
  local sequence, stored_total, stored_sequence
  if sequence_text ~= '' then
    sequence = amount(sequence_text)
    if not sequence then return { 'invalid', 'sequence' } end
  end
  if total_text ~= '' then
    stored_total = amount(total_text)
    if not stored_total then return { 'invalid', 'stored_total' } end
  end
  if stored_sequence_text ~= '' then
    stored_sequence = amount(stored_sequence_text)
    if not stored_sequence then return { 'invalid', 'stored_sequence' } end
  end
  if not data then return { 'invalid', 'data' } end

  -- The reservation: still held, remembered as settled, or unknown. An expired one that was charged
  -- for is credited, so that the two together come to no less than the actual cost, and not to both.
  local state, hold_micros, credit = '-', 0, 0
  if reservation_id ~= '' then
    local hold = redis.call('HMGET', workspace.prefix .. ':hold:' .. reservation_id,
      'micros', 'chat')
    local chat
    if hold[1] then
      state, hold_micros, chat = 'h', hold[1] + 0, hold[2]
    else
      state, credit, chat = settled_state(workspace, now, reservation_id)
    end
    if chat_id == '' then chat_id = chat end
    if hold[1] and chat_id ~= chat then return { 'reservation_chat' } end
  end

  local chain = {}
  if chat_id ~= '' then
    local reply
    chain, reply = read_chain(workspace, chat_id, parent, chat_limit, new_in)
    if not chain then return reply end
  end
  local leaf = chain[1]

  if is_fresh ~= '1' then
    local remembered = recall(workspace, now, 'e:' .. event_id)
    if remembered then
      local its_fingerprint, charged, letter = string.match(remembered, '^([^:]*):(%d+):(.)')
      if its_fingerprint ~= fingerprint then return { 'id_reused' } end
      return outcome('recorded', now, charged + 0, 1, letter, workspace, leaf)
    end
  end

  -- A running total: only what it grew by is charged. A lower one means that its reporter restarted,
  -- unless its sequence number says that it is merely late.
  local charged = cost
  local source_key, source_is_cold = workspace.prefix .. ':source:' .. source, false
  if source ~= '' then
    local known = redis.call('HMGET', source_key, 'total', 'sequence', 'epoch')
    local total, last = tonumber(known[1] or ''), tonumber(known[2] or '')
    source_is_cold = known[3] ~= workspace.epoch
    if source_is_cold then
      if not stored_total or stored_in ~= workspace.epoch then
        return { 'cold', 'source', source, workspace.epoch }
      end
      total, last = stored_total, stored_sequence
    end
    if cost == 0 or cost == total or (sequence and last and sequence <= last) then
      charged = 0
    elseif cost > total then
      charged = cost - total
    end
    if charged == 0 then cost = total end
    if last and (not sequence or sequence < last) then sequence = last end
  end
  if credit > 0 then charged = math.max(0, charged - credit) end

  local room = MICROS_MAX - charged + hold_micros
  local scopes = { workspace, unpack(chain) }
  for i = 1, #scopes do
    local spent, held = scopes[i].spent, scopes[i].held
    for j = 1, #spent do
      if spent[j] + held > room then return { 'counter_overflow' } end
    end
  end

  -- Nothing below can fail.
  workspace.is_changed = true
  if leaf and leaf.is_new then
    -- include "create"
    create_chat(workspace, leaf, now)
  end
  if state == 'h' then drop_hold(workspace.prefix, reservation_id) end
  if source ~= '' then
    if source_is_cold then redis.call('DEL', source_key) end
    redis.call('HSET', source_key, 'total', cost, 'epoch', workspace.epoch)
    if sequence then redis.call('HSET', source_key, 'sequence', sequence) end
  end
  if priced == '0' then
    redis.call('HINCRBY', KEYS[1], 'unpriced', 1)
  end

  local own_chat = reservation_id == event_id and chat_id ~= '' and ':' .. chat_id or ''
  remember(workspace, now, 'e:' .. event_id,
    string.format('%s:%.0f:%s%s', fingerprint, charged, state, own_chat))
  if reservation_id ~= '' and (reservation_id ~= event_id or state ~= 'h') then
    remember(workspace, now, 'r:' .. reservation_id, 'r:0:' .. chat_id)
  end
  -- A report that says nothing new has nothing to make durable.
  if source == '' then
    append(workspace, 'record', now,
      'event', event_id, 'charged', charged, 'fingerprint', fingerprint, 'chat', chat_id,
      'reservation', reservation_id, 'state', state, 'priced', priced, 'data', data)
  elseif charged > 0 or state ~= '-' then
    append(workspace, 'record', now,
      'event', event_id, 'charged', charged, 'fingerprint', fingerprint, 'chat', chat_id,
      'reservation', reservation_id, 'state', state, 'priced', priced, 'data', data,
      'source', source, 'total', cost, 'sequence', sequence or '')
  end

  for i = 1, #chain do
    local chat = chain[i]
    chat.held, chat.spent[1] = chat.held - hold_micros, chat.spent[1] + charged
    if not chat.is_changed then
      chat.is_changed = true
      changed[#changed + 1] = chat
    end
  end
  if leaf then leaf.own = leaf.own + charged end
  workspace.held = workspace.held - hold_micros
  if charged > 0 then charge_windows(workspace, charged, now) end
  return outcome('recorded', now, charged, 0, state, workspace, leaf)
end

local reply = each_call(workspace, 16, record)
for i = 1, #changed do save_chat(changed[i]) end
if workspace.is_changed then
  workspace.clock = now
  save_workspace(workspace)
end
return reply
