-- Changes what an admitted call is charged, and returns what it is charged now.
--
-- KEYS: as for take.
-- ARGV: 1 the number of bounds, 2 the time of the take in ms, 3 the units
--       charged so far, 4 the units to charge, 5 the id of the event, 6 "1" for
--       a replay; then for each bound what take got.

local bounds, at, charged, units = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = milliseconds()

-- A charge under an idempotency key is held by every call that relies on it,
-- and changes only when the last one lets go.
local mark = KEYS[bounds + 1]
if mark then
  local seen = redis.call('HMGET', mark, 'id', 'units', 'holders', 'at', 'keys')
  if seen[1] == ARGV[5] then
    if tonumber(seen[3]) > 1 then
      if units > 0 then return tonumber(seen[2]) end
      redis.call('HINCRBY', mark, 'holders', -1)
      return 0
    end
    if ARGV[6] == '1' then
      if units > 0 then return tonumber(seen[2]) end
      redis.call('DEL', mark)
      -- The first call was charged under other limits: a plan or a period has
      -- changed since. Those units can't be found from here and stay.
      if seen[5] ~= redis.sha1hex(table.concat(KEYS, ' ')) then return 0 end
      charged, at = tonumber(seen[2]), tonumber(seen[4])
    elseif units == 0 then
      redis.call('DEL', mark)
    end
  elseif ARGV[6] == '1' then
    return units -- the charge is long gone; there is nothing to change
  else
    mark = nil
  end
end

local more = units - charged
local logs = {}
for i = 1, bounds do
  local a = 7 + (i - 1) * 4
  local window, attempts = tonumber(ARGV[a]), ARGV[a + 2] == '1'
  if not attempts then
    local used = 0
    if window == 0 then
      used = tonumber(redis.call('GET', KEYS[i]) or 0)
    else
      local l = read_log(KEYS[i])
      if l then
        prune(l, math.max(now, l.last), window)
        logs[i], used = l, l.sum
      end
    end
    if more > 0 then more = math.min(more, math.max(0, tonumber(ARGV[a + 1]) - used)) end
  end
end

for i = 1, bounds do
  local a = 7 + (i - 1) * 4
  local window, attempts = tonumber(ARGV[a]), ARGV[a + 2] == '1'
  if not attempts and more ~= 0 then
    if window == 0 then
      local used = tonumber(redis.call('GET', KEYS[i]) or 0)
      if more > 0 then
        redis.call('INCRBY', KEYS[i], string.format('%.0f', more))
        redis.call('PEXPIREAT', KEYS[i], keep_until(ARGV[a + 3]))
      elseif used > 0 then
        redis.call('DECRBY', KEYS[i], string.format('%.0f', math.min(used, -more)))
      end
    elseif more > 0 then
      add(logs[i], KEYS[i], now, more, window, tonumber(ARGV[a + 3]))
    elseif logs[i] then
      sub(logs[i], at, -more, math.max(now, logs[i].last), window)
    end
  end
end
units = charged + more
if mark and units > 0 then redis.call('HSET', mark, 'units', string.format('%.0f', units)) end
return units
