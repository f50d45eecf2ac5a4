-- Changes what an admitted call is charged, gives back what is left of what was
-- lent with it, and frees its slots. Returns what the call is charged now.
--
-- KEYS: as for take.
-- ARGV: 1 the bounds, 2 the time of the take in ms, 3 the units charged so far,
--       4 the units to charge, 5 and 6 the units and calls to give back of what
--       was lent, 7 the name of its slots, 8 the id of the event, 9 "1" for a
--       replay, 10 for how long, in ms, the units were lent, or 0, 11 the name
--       of the loan.

local struct = rawget(_G, 'struct')
local call = redis.call
local WINDOW, ATTEMPTS, PERIOD, SLOTS = 0, 1, 2, 3
local FORMAT, BOUND = '>BI6I6I6I6', 25

--LOG--

local bounds, at, charged, units = #ARGV[1] / BOUND, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local block, calls, ahead = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[10])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local specs = {}
for i = 1, bounds do
  local kind, _, limit, window, last = read_bound(ARGV[1], i)
  specs[i] = {kind = kind, limit = limit, window = window, last = last}
  if kind == SLOTS then call('ZREM', KEYS[i], ARGV[7]) end
end

-- give_back takes units and calls out of the bounds, from where they were at
-- the time at.
local function give_back(at, units, calls)
  for i, b in ipairs(specs) do
    local less = units
    if b.kind == ATTEMPTS then less = calls end
    if less > 0 and b.kind == PERIOD then
      local used = tonumber(call('GET', KEYS[i]) or 0)
      less = math.min(used, less)
      if less > 0 then
        call('DECRBY', KEYS[i], string.format('%.0f', less))
        -- Taken from a counter that Redis has lost since: what is given back must
        -- not be missing beside what the ledger says of that time. See seed.lua.
        local since = tonumber(call('HGET', KEYS[i] .. '#since', 'since'))
        if since and at < since then call('HINCRBY', KEYS[i] .. '#since', 'before', string.format('%.0f', -less)) end
      end
    elseif less > 0 and b.kind ~= SLOTS then
      local l = read_log(KEYS[i])
      if l then sub(l, at, ahead, less, now, b.window) end
    end
  end
end

local mark = KEYS[bounds + 1]
if mark and ARGV[11] ~= '' then -- what was lent is given back once
  if call('HDEL', mark, ARGV[11]) == 1 then give_back(at, block, calls) end
  mark = nil
end
if units == charged and ARGV[9] == '0' then return units end

-- A charge under an idempotency key is held by every call that relies on it,
-- and changes only when the last one lets go.
if mark then
  local seen = call('HMGET', mark, 'id', 'units', 'holders', 'at', 'keys')
  if seen[1] == ARGV[8] then
    if tonumber(seen[3]) > 1 then
      if units > 0 then return tonumber(seen[2]) end
      call('HINCRBY', mark, 'holders', -1)
      return 0
    end
    if ARGV[9] == '1' then
      if units > 0 then return tonumber(seen[2]) end
      call('DEL', mark)
      -- The first call was charged under other limits: a plan or a period has
      -- changed since. Those units can't be found from here and stay.
      if seen[5] ~= redis.sha1hex(table.concat(KEYS, ' ')) then return 0 end
      charged, at = tonumber(seen[2]), tonumber(seen[4])
    elseif units == 0 then
      call('DEL', mark)
    end
  elseif ARGV[9] == '1' then
    return units -- the charge is long gone; there is nothing to change
  else
    mark = nil
  end
end

if units < charged then
  give_back(at, charged - units, 0)
elseif units > charged then
  local more, logs = units - charged, {}
  for i, b in ipairs(specs) do
    local used
    if b.kind == PERIOD then
      used = tonumber(call('GET', KEYS[i]) or 0)
    elseif b.kind == WINDOW then
      used = 0
      local l = read_log(KEYS[i])
      if l then
        prune(l, now, b.window)
        logs[i], used = l, l.sum
      end
    end
    if used then more = math.min(more, math.max(0, b.limit - used)) end
  end
  for i, b in ipairs(specs) do
    if more > 0 and b.kind == PERIOD then
      count(KEYS[i], more, now, b.last)
    elseif more > 0 and b.kind == WINDOW then
      add(logs[i], KEYS[i], now, 0, more, b.window, b.last)
    end
  end
  units = charged + more
end
if mark and units > 0 then call('HSET', mark, 'units', string.format('%.0f', units)) end
return units
