-- Counts what was used while nobody could ask, once, at the times when it was.
--
-- KEYS: one per bound, the one that remembers the journal's last entry, and the
--       one of the idempotency key if there is one.
-- ARGV: 1 the bounds, 2 and 3 the first and the last entry that this is for,
--       4 how long, in ms, to remember the last one, 5 the uses: which bound
--       (2 bytes, from 1 on), when in ms (6), how much (6); 6 "1" if a ledger
--       says what came before the counter of a period; with an idempotency key
--       also 7 the units charged, 8 the id of the event, 9 how long the key is
--       remembered in ms.
-- Returns the last entry that is counted. Nothing has changed if that one, or one
-- from the first on, was counted before.

local struct = rawget(_G, 'struct')
local call = redis.call
local WINDOW, ATTEMPTS, PERIOD, SLOTS = 0, 1, 2, 3
local FORMAT, BOUND = '>BI6I6I6I6', 25
local USE = 14

--LOG--

local bounds = #ARGV[1] / BOUND
local journal, mark = KEYS[bounds + 1], KEYS[bounds + 2]
local done = tonumber(call('GET', journal) or -1)
if done >= tonumber(ARGV[2]) then return string.format('%.0f', done) end
call('SET', journal, ARGV[3], 'PX', ARGV[4])

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- An idempotency key whose charge has the same event has been paid for. Whoever was
-- let through on it relies on it from now on.
local paid = false
if mark then
  local seen = call('HGET', mark, 'id')
  if seen == ARGV[8] then
    paid = true
    call('HINCRBY', mark, 'holders', 1)
  elseif not seen then
    call('HSET', mark, 'id', ARGV[8], 'units', ARGV[7], 'holders', 1,
      'at', string.format('%.0f', now), 'keys', names(bounds, mark))
    call('PEXPIRE', mark, ARGV[9])
  end
end

-- insert adds units to the log under key at a time that has passed.
local function insert(key, at, units, window, resolution)
  if at <= now - window then return end
  at = math.min(at, now)
  local l = read_log(key)
  if not l then
    l = {key = key, sum = units, start = at, last = at, units = units, head = 0, count = 0, oldest = 0}
    call('SET', key, header(l), 'PX', at + window - now + resolution)
    return
  end
  prune(l, now, window)
  local live = l.count - l.head
  local lasts, held = {}, {}
  if live > 0 then
    local s = read_entries(l, l.head, live)
    for i = 1, live do lasts[i], held[i] = entry(s, i - 1) end
  end
  if l.units > 0 and at >= l.start and (at <= l.last or at - l.start < resolution) then
    l.last, l.units = math.max(l.last, at), l.units + units
  elseif at >= l.last and l.units > 0 and live >= MOST then
    l.last, l.units = at, l.units + units
  elseif at >= l.last then
    if l.units > 0 then
      live = live + 1
      lasts[live], held[live] = l.last, l.units
    end
    l.start, l.last, l.units = at, at, units
  else
    -- The first run that ends no earlier, if it may have begun by then; else it
    -- is a run of its own.
    local i = 1
    while i <= live and lasts[i] < at do i = i + 1 end
    if i <= live and (lasts[i] - at < resolution or live >= MOST) then
      held[i] = held[i] + units
    elseif live >= MOST and l.units > 0 then
      l.units = l.units + units
    else
      table.insert(lasts, i, at)
      table.insert(held, i, units)
      live = live + 1
    end
  end
  local closed = {}
  for i = 1, live do closed[i] = pack_entry(lasts[i], held[i]) end
  l.sum, l.head, l.count, l.oldest = l.sum + units, 0, live, lasts[1] or 0
  call('SET', key, header(l) .. table.concat(closed), 'PX', math.max(l.last, now) - now + window + resolution)
end

for from = 1, #ARGV[5], USE do
  local i, at, units
  if struct then
    i, at, units = struct.unpack('>I2I6I6', ARGV[5], from)
  else
    i, at, units = unpack_numbers(ARGV[5], from, {2, 6, 6})
  end
  local kind, _, _, window, last = read_bound(ARGV[1], i)
  if kind == ATTEMPTS then
    insert(KEYS[i], at, units, window, last)
  elseif paid then
    -- counted when it was paid
  elseif kind == WINDOW then
    insert(KEYS[i], at, units, window, last)
  elseif kind == PERIOD and now < last + 172800000 then
    -- What came before the counter began is for the ledger to say; see seed.lua.
    local since = call('HGET', KEYS[i] .. '#since', 'since')
    if ARGV[6] == '1' and not since and call('EXISTS', KEYS[i]) == 0 then
      count(KEYS[i], 0, now, last)
      since = now
    end
    if ARGV[6] == '0' or not since or at >= tonumber(since) then count(KEYS[i], units, now, last) end
  end
end
return ARGV[3]
