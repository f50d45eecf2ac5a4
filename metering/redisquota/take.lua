-- Takes the units of a call from all of its bounds, or from none.
--
-- KEYS: one per bound, then the one of the idempotency key if there is one.
-- ARGV: 1 the number of bounds, 2 "1" to take and "0" to look, 3 the units of
--       the call, 4 the id of its event, 5 how long an idempotency key is
--       remembered in ms; then for each bound: window in ms (0: a period),
--       limit, "1" if it counts attempts, resolution in ms (for a period: its
--       end in Unix ms).
-- Returns: allowed, index of the first bound that refused, now in ms, replay,
--       units charged, id; then for each bound: remaining, retry after in ms.

local bounds, take, units, id = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4]
local now = milliseconds()

local mark, replay, signature = KEYS[bounds + 1], 0, nil
local price = units
if mark then
  local seen = redis.call('HMGET', mark, 'id', 'units')
  if seen[1] then
    replay, id, units, price = 1, seen[1], tonumber(seen[2]), 0
  end
end

local logs, weights, reply = {}, {}, {1, -1, now, replay, units, id}
for i = 1, bounds do
  local a = 6 + (i - 1) * 4
  local window, limit, attempts = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2] == '1'
  local weight, used, retry = price, 0, 0
  if attempts then weight = 1 end
  weights[i] = weight
  if window == 0 then
    used = tonumber(redis.call('GET', KEYS[i]) or 0)
  else
    local l = read_log(KEYS[i])
    if l then
      prune(l, math.max(now, l.last), window)
      logs[i], used = l, l.sum
    end
  end
  if weight > 0 and used + weight > limit then
    if reply[1] == 1 then reply[1], reply[2] = 0, i - 1 end
    if weight > limit then
      retry = -1
    elseif window == 0 then
      retry = math.max(1, tonumber(ARGV[a + 3]) - now)
    else
      retry = retry_after(logs[i], now, window, used + weight - limit)
    end
  end
  reply[5 + 2 * i], reply[6 + 2 * i] = math.max(0, limit - used), retry
end
if reply[1] == 0 then
  reply[5] = 0
  return reply
end

for i = 1, bounds do
  local a = 6 + (i - 1) * 4
  local window, weight = tonumber(ARGV[a]), weights[i]
  reply[5 + 2 * i] = math.max(0, reply[5 + 2 * i] - weight)
  if take and weight > 0 then
    if window > 0 then
      add(logs[i], KEYS[i], now, weight, window, tonumber(ARGV[a + 3]))
    else
      redis.call('INCRBY', KEYS[i], string.format('%.0f', weight))
      redis.call('PEXPIREAT', KEYS[i], keep_until(ARGV[a + 3]))
    end
  end
end
if take and mark then
  if replay == 1 then
    redis.call('HINCRBY', mark, 'holders', 1)
  else
    redis.call('HSET', mark, 'id', id, 'units', string.format('%.0f', units), 'holders', 1,
      'at', string.format('%.0f', now), 'keys', redis.sha1hex(table.concat(KEYS, ' ')))
    redis.call('PEXPIRE', mark, ARGV[5])
  end
end
return reply
