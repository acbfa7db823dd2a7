-- POST /check with one body or some, or check and record in turns; prints what it counted as JSON.
--
-- wrk … -s calls.lua <url> -- check <body>
-- wrk … -s calls.lua <url> -- some <body> <count>
--   "ID" in the body stands for the numbers from 1 to count, in turn.
-- wrk … -s calls.lua <url> -- pairs <check body> <record body> <id prefix>
--   In both bodies "ID" stands for the reservation's id. A record follows its check by LAG other
--   checks, more than there are connections, so that the check has been answered.

local LAG = 1024
local checked, recorded = 0, 0

local function around_id(body)
  local head, tail = string.match(body, '^(.*)ID(.*)$')
  return head, tail
end

function init(args)
  wrk.method = 'POST'
  wrk.headers['Content-Type'] = 'application/json'
  if args[1] == 'check' then
    wrk.body = args[2]
    return
  end
  local check_head, check_tail = around_id(args[2])
  if args[1] == 'some' then
    local requests, turn = {}, 0
    for number = 1, tonumber(args[3]) do
      requests[number] = wrk.format(nil, '/check', nil, check_head .. number .. check_tail)
    end
    request = function()
      turn = turn % #requests + 1
      return requests[turn]
    end
    return
  end
  local record_head, record_tail = around_id(args[3])
  local prefix = args[4]
  request = function()
    if checked - recorded <= LAG then
      checked = checked + 1
      return wrk.format(nil, '/check', nil, check_head .. prefix .. checked .. check_tail)
    end
    recorded = recorded + 1
    return wrk.format(nil, '/record', nil, record_head .. prefix .. recorded .. record_tail)
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "duration_us": %d, "failures": %d, "p50_us": %d, "p99_us": %d}',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
