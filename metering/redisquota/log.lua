-- A sliding window in one string. Runs of calls are remembered as one entry:
-- a header of 35 bytes holds the sum of all entries, the open entry (start,
-- last call, units), and how many closed entries there are and from which on
-- they count; the closed entries follow, 11 bytes each (last call, units).
-- Numbers are big-endian; times are Unix milliseconds.
--
-- An entry counts until its last call is a whole window old. So no window ever
-- holds more than was admitted, and a unit is released late by at most the
-- length of a run (the resolution), never early. Units that a process may
-- spend later have the last moment for it as the time of their call.
--
-- The work per call does not depend on the limit: the header is read and
-- written, and each closed entry is read once more when it expires.

local HEADER, ENTRY = 35, 11
local MOST = 100    -- closed entries at most: then runs grow longer than the resolution

-- unpack_numbers reads big-endian numbers of the given sizes, for servers that
-- speak the protocol and have no struct library.
local function unpack_numbers(s, from, sizes)
  local numbers = {}
  for i, size in ipairs(sizes) do
    local n = 0
    for at = from, from + size - 1 do n = n * 256 + string.byte(s, at) end
    numbers[i], from = n, from + size
  end
  return unpack(numbers)
end

local function pack_number(n, size)
  local bytes = {}
  for i = size, 1, -1 do
    bytes[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(bytes)
end

-- read_log returns the log under key, or nil.
local function read_log(key)
  local h = call('GETRANGE', key, 0, HEADER - 1)
  if #h < HEADER then return nil end
  local l = {key = key}
  if struct then
    l.sum, l.start, l.last, l.units, l.head, l.count, l.oldest = struct.unpack('>I6I6I6I5I3I3I6', h)
  else
    l.sum, l.start, l.last, l.units, l.head, l.count, l.oldest = unpack_numbers(h, 1, {6, 6, 6, 5, 3, 3, 6})
  end
  return l
end

local function header(l)
  if struct then
    return struct.pack('>I6I6I6I5I3I3I6', l.sum, l.start, l.last, l.units, l.head, l.count, l.oldest)
  end
  return pack_number(l.sum, 6) .. pack_number(l.start, 6) .. pack_number(l.last, 6) .. pack_number(l.units, 5)
    .. pack_number(l.head, 3) .. pack_number(l.count, 3) .. pack_number(l.oldest, 6)
end

local function pack_entry(last, units)
  if struct then return struct.pack('>I6I5', last, units) end
  return pack_number(last, 6) .. pack_number(units, 5)
end

-- read_entries returns n closed entries from index on, as one string.
local function read_entries(l, index, n)
  local from = HEADER + index * ENTRY
  return call('GETRANGE', l.key, from, from + n * ENTRY - 1)
end

-- entry returns last call and units of the i-th entry, from 0, in such a string.
local function entry(s, i)
  local at = i * ENTRY + 1
  if struct then
    local last, units = struct.unpack('>I6I5', s, at)
    return last, units
  end
  return unpack_numbers(s, at, {6, 5})
end

-- prune drops from l what has left the window at now; nothing is written. Now
-- must not be moved on to the last entry: that may be one that was lent, whose
-- time is to come, and others would be released early.
local function prune(l, now, window)
  local gone = now - window
  if l.last <= gone then -- everything has
    l.sum, l.units, l.head, l.oldest = 0, 0, l.count, 0
    return
  end
  while l.head < l.count and l.oldest <= gone do
    local n = math.min(8, l.count - l.head)
    local s = read_entries(l, l.head, n)
    for i = 0, n - 1 do
      local last, units = entry(s, i)
      l.oldest = last
      if last > gone then break end
      l.sum = l.sum - units
      l.head = l.head + 1
    end
  end
  if l.head == l.count then l.oldest = 0 end
end

-- add adds units at now, to be spent within ahead, to the pruned log l, or to a
-- new one if l is nil.
local function add(l, key, now, ahead, units, window, resolution)
  if not l then
    l = {key = key, sum = units, start = now, last = now + ahead, units = units, head = 0, count = 0, oldest = 0}
    call('SET', key, header(l), 'PX', window + resolution + ahead)
    return
  end
  -- A clock that steps back releases late, never early.
  local last = math.max(l.last, now + ahead)
  local ttl = last - now + window + resolution
  l.sum = l.sum + units
  local live = l.count - l.head
  if l.units > 0 and now - l.start >= resolution and live < MOST then
    -- Written anew: a string that is appended to gets twice the room it needs.
    local kept, closed = '', pack_entry(l.last, l.units)
    if live > 0 then kept = read_entries(l, l.head, live) else l.oldest = l.last end
    l.start, l.last, l.units = now, last, units
    l.head, l.count = 0, live + 1
    call('SET', l.key, header(l) .. kept .. closed, 'PX', ttl)
    return
  end
  if l.units == 0 then l.start = math.max(l.start, now) end
  local renew = ahead > 0 or l.units == 0 or now - l.start >= resolution
  l.last, l.units = last, l.units + units
  call('SETRANGE', l.key, 0, header(l))
  if renew then call('PEXPIRE', l.key, ttl) end
end

-- sub takes units out of the entry of l that holds the calls of the time at, or
-- what was lent then for so long ahead. Taking them out of a later one would
-- release that one's units too early; if the entry may have left the window,
-- the units leave with it.
local function sub(l, at, ahead, units, now, window)
  prune(l, now, window)
  if at <= math.max(now, l.last) - window then return end -- the clock may have stepped back since it left
  if at >= l.start then
    units = math.min(units, l.units)
    l.units = l.units - units
  else
    local low, high = 0, l.count -- the first closed entry that reaches so far
    while low < high do
      local middle = math.floor((low + high) / 2)
      local last = entry(read_entries(l, middle, 1), 0)
      if last < at + ahead then low = middle + 1 else high = middle end
    end
    if low < l.head or low == l.count then return end
    local last, held = entry(read_entries(l, low, 1), 0)
    units = math.min(units, held)
    if units == held then -- nothing is left of it
      local front, rest = '', call('GETRANGE', l.key, HEADER + (low + 1) * ENTRY, HEADER + l.count * ENTRY - 1)
      if low > l.head then front = read_entries(l, l.head, low - l.head)
      elseif rest ~= '' then l.oldest = entry(rest, 0)
      else l.oldest = 0 end
      l.sum, l.head, l.count = l.sum - units, 0, l.count - l.head - 1
      call('SET', l.key, header(l) .. front .. rest, 'KEEPTTL')
      return
    end
    call('SETRANGE', l.key, HEADER + low * ENTRY, pack_entry(last, held - units))
  end
  l.sum = l.sum - units
  call('SETRANGE', l.key, 0, header(l))
end

-- retry_after returns in how many milliseconds missing units will have left
-- the pruned log l.
local function retry_after(l, now, window, missing)
  local live = l.count - l.head
  if live > 0 then
    local s = read_entries(l, l.head, live)
    for i = 0, live - 1 do
      local last, units = entry(s, i)
      missing = missing - units
      if missing <= 0 then return last + window - now end
    end
  end
  return l.last + window - now
end

-- keep_until returns until when the counter of a period that ends so is kept:
-- two days longer, for calls that are settled late.
local function keep_until(period_end)
  return string.format('%.0f', period_end + 172800000)
end

-- count adds units to the counter of a period. Beside one that is new stands that
-- it counts from now on: see seed.lua.
local function count(key, units, now, period_end)
  if call('INCRBY', key, string.format('%.0f', units)) == units
    and call('HSETNX', key .. '#since', 'since', string.format('%.0f', now)) == 1 then
    call('PEXPIREAT', key .. '#since', keep_until(period_end))
  end
  call('PEXPIREAT', key, keep_until(period_end))
end

-- read_bound returns the i-th of the bounds that the caller has packed: its
-- kind, the units that it gives, the limit, the window in ms, and the last
-- number, which is the resolution in ms of a window, the end in Unix ms of a
-- period, and how long a slot is held in ms.
local function read_bound(packed, i)
  local at = (i - 1) * BOUND + 1
  if struct then return struct.unpack(FORMAT, packed, at) end
  return unpack_numbers(packed, at, {1, 6, 6, 6, 6})
end

-- names stands for what a call draws on under an idempotency key.
local function names(bounds, mark)
  local all = {}
  for i = 1, bounds do all[i] = KEYS[i] end
  all[bounds + 1] = mark
  return redis.sha1hex(table.concat(all, ' '))
end
