-- Alerts that wait to be told.
--
-- KEYS: 1 ids by when they are due, 2 alerts by id, 3 how often each was claimed,
--       4 what remembers the id (add only).
-- ARGV: 1 "add":     2 id, 3 the alert, 4 for how long the id is remembered, in ms
--       1 "claim":   2 how many at most, 3 the lease in ms
--       1 "release": 2 id, 3 how often it was claimed, 4 after how many ms it is due
--                    again; below 0: it goes
-- Returns for add "1" if it was added; for claim a line for each: the count, a
-- space, the alert.

local call = redis.call
local DUE, ALERTS, TRIES = KEYS[1], KEYS[2], KEYS[3]
local what, id = ARGV[1], ARGV[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function due_in(id, ms) call('ZADD', DUE, string.format('%.0f', now + ms), id) end

local function drop(id)
  call('ZREM', DUE, id)
  call('HDEL', ALERTS, id)
  call('HDEL', TRIES, id)
end

if what == 'add' then
  if not call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[4]) then return '0' end
  call('HSET', ALERTS, id, ARGV[3])
  due_in(id, 0)
  return '1'
end

if what == 'claim' then
  local lines = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])) do
    local alert = call('HGET', ALERTS, id)
    if alert then
      lines[#lines + 1] = call('HINCRBY', TRIES, id, 1) .. ' ' .. alert
      due_in(id, tonumber(ARGV[3]))
    else
      drop(id)
    end
  end
  return table.concat(lines, '\n')
end

local again = tonumber(ARGV[4])
if again < 0 then
  drop(id)
elseif call('HGET', TRIES, id) == ARGV[3] then
  due_in(id, again)
end
return '1'
