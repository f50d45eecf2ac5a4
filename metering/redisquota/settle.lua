-- Changes what an admitted call is charged, gives back what is left of what was
-- lent with it, and frees its slots. Returns what the call is charged now.
--
-- KEYS: as for take.
-- ARGV: 1 the bounds, 2 the time of the take in ms, 3 the units charged so far,
--       4 the units to charge, 5 and 6 the units and calls to give back of what
--       was lent, 7 the name of its slots, 8 the id of the event, 9 "1" for a
--       replay, 10 for how long, in ms, the units were lent, or 0, 11 the name
--       of the loan, 12 the lane and the number of the receipt, 13 what it
--       is the receipt of: empty for this question, "settle" or "take" for an
--       earlier one whose answer was lost. That settlement is made now if it was
--       not, and stays if it was, save that the call is not charged more than
--       before. That take is undone if it was carried out, attempts and all.
--       Neither is carried out any more.

local struct = rawget(_G, 'struct')
local call = redis.call
local WINDOW, ATTEMPTS, PERIOD, SLOTS = 0, 1, 2, 3
local FORMAT, BOUND = '>BI6I6I6I6', 25

--LOG--
--RECEIPT--

local bounds, at, charged, units = #ARGV[1] / BOUND, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local block, calls, ahead = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[10])
local id, replay, attempts = ARGV[8], ARGV[9] == '1', 0
local lane, number, lost = string.sub(ARGV[12], 1, 8), string.sub(ARGV[12], 9), ARGV[13]
local receipts, mark = nil, KEYS[bounds + 1]
if lane ~= '' then receipts, mark = mark, KEYS[bounds + 2] end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local before = receipts and call('HGET', receipts, lane)
local done = before and string.sub(before, 1, 6) == number
if lost == '' and done then return redis.error_reply('WITHDRAWN it has been settled without') end
if lost ~= '' and not done then
  leave(receipts, lane, number, before, now, '')
  -- One that is older than receipts are may have been carried out: rather too much
  -- is counted than too little.
  if lost == 'take' or at < now - SURE then return charged end
elseif lost == 'take' then
  at, attempts = unpack_numbers(before, 7, {6}), 1
  if #before > 12 then
    block, calls, replay = unpack_numbers(before, 13, {6, 6, 1})
    replay = replay == 1
    if replay then id = string.sub(before, 26) end
  end
  if block == 0 then ahead = 0 end
elseif lost == 'settle' then
  local settled, now_charged = unpack_numbers(before, 7, {6, 6})
  if now_charged <= units then return now_charged end
  if now_charged > charged then at = settled end
  charged = now_charged
end

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
      local known = call('HMGET', KEYS[i] .. '#since', 'since', 'reset')
      local since, reset = tonumber(known[1] or 0), tonumber(known[2] or 0)
      less = math.min(tonumber(call('GET', KEYS[i]) or 0), less)
      if less > 0 and at > reset then -- see reset.lua
        call('DECRBY', KEYS[i], string.format('%.0f', less))
        -- Taken from a counter that Redis has lost since: what is given back must
        -- not be missing beside what the ledger says of that time. See seed.lua.
        if at < since then call('HINCRBY', KEYS[i] .. '#since', 'before', string.format('%.0f', -less)) end
      end
    elseif less > 0 and b.kind ~= SLOTS then
      local l = read_log(KEYS[i])
      if l then sub(l, at, ahead, less, now, b.window) end
    end
  end
end

-- settle returns what the call is charged now.
local function settle()
  if mark and ARGV[11] ~= '' then -- what was lent is given back once
    if call('HDEL', mark, ARGV[11]) == 1 then give_back(at, block, calls) end
    mark = nil
  end
  if attempts > 0 then give_back(at, 0, attempts) end
  if units == charged and not replay then return units end

  -- A charge under an idempotency key is held by every call that relies on it,
  -- and changes only when the last one lets go.
  if mark then
    local seen = call('HMGET', mark, 'id', 'units', 'holders', 'at', 'keys')
    if seen[1] == id then
      if tonumber(seen[3]) > 1 then
        if units > 0 then return tonumber(seen[2]) end
        call('HINCRBY', mark, 'holders', -1)
        return 0
      end
      if replay then
        if units > 0 then return tonumber(seen[2]) end
        call('DEL', mark)
        -- The first call was charged under other limits: a plan or a period has
        -- changed since. Those units can't be found from here and stay.
        if seen[5] ~= names(bounds, mark) then return 0 end
        charged, at = tonumber(seen[2]), tonumber(seen[4])
      elseif units == 0 then
        call('DEL', mark)
      end
    elseif replay then
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
end

units = settle()
if receipts and lost == '' then leave(receipts, lane, number, before, now, pack_number(units, 6)) end
return units
