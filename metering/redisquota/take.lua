-- Takes the units of a call from all of its bounds, or from none.
--
-- KEYS: one per bound, then the one of the idempotency key if there is one, or
--       the one of the tenant's loans if units are to be lent.
-- ARGV: 1 the bounds; the others are left out if they are all as for a plain
--       call: 2 "1" to take and "0" to look, 3 the name of the slots that the
--       call holds, 4 and 5 the units and calls to lend beside those of the
--       call, 6 for how long, in ms, 7 the name of the loan, 8 the units of the
--       call, 9 the id of its event, 10 how long an idempotency key is
--       remembered in ms.
-- Returns, packed: now in ms (6 bytes), the first bound that refused from 1 on,
--       or 0 (1), whether it is a replay (1), the units charged if it is (6),
--       units and calls lent (6, 6); for each bound: remaining (6), retry after
--       in ms (6); the id of the first charge if it is a replay.

local struct = rawget(_G, 'struct') -- absent on some servers that speak the protocol
local call = redis.call
local WINDOW, ATTEMPTS, PERIOD, SLOTS = 0, 1, 2, 3
local FORMAT, BOUND = '>BI6I6I6I6', 25
local NEVER = 281474976710655

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The common case, in as few steps as it takes: a plain call, windows from
-- which nothing has to be dropped and whose open entries take it. It comes
-- before the functions because to make those takes longer than to decide.
if struct and #ARGV == 1 then
  local packed, headers, left, fits = ARGV[1], {}, '', true
  for i = 1, #KEYS do
    local kind, weight, limit, window, resolution = struct.unpack(FORMAT, packed, (i - 1) * BOUND + 1)
    if kind > ATTEMPTS then fits = false break end
    local h = call('GETRANGE', KEYS[i], 0, 34)
    if #h < 35 then fits = false break end
    local sum, start, last, units, head, count, oldest = struct.unpack('>I6I6I6I5I3I3I6', h)
    sum = sum + weight
    local gone = now - window
    if sum > limit or now - start >= resolution or last <= gone or head < count and oldest <= gone or units == 0 then
      fits = false
      break
    end
    if last < now then last = now end
    headers[i] = struct.pack('>I6I6I6I5I3I3I6', sum, start, last, units + weight, head, count, oldest)
    left = left .. struct.pack('>I6I6', limit - sum, 0)
  end
  if fits then
    for i = 1, #KEYS do call('SETRANGE', KEYS[i], 0, headers[i]) end
    return struct.pack('>I6BBI6I6I6', now, 0, 0, 0, 0, 0) .. left
  end
end

--LOG--

local bounds = #ARGV[1] / BOUND
local take, slot = ARGV[2] ~= '0', ARGV[3]
local block, calls, ahead = tonumber(ARGV[4] or 0), tonumber(ARGV[5] or 0), tonumber(ARGV[6] or 0)
local mark, loans, replay, units, id = KEYS[bounds + 1], nil, 0, 0, ''
if mark and ARGV[7] ~= '' then
  loans = mark
  mark = nil
end
if mark then
  local seen = call('HMGET', mark, 'id', 'units')
  if seen[1] then replay, id, units = 1, seen[1], tonumber(seen[2]) end
end

local logs, specs, states, refused = {}, {}, {}, 0
local lent_from_attempts = false
for i = 1, bounds do
  local kind, weight, limit, window, last = read_bound(ARGV[1], i)
  local used, retry = 0, 0
  if replay == 1 and kind ~= ATTEMPTS and kind ~= SLOTS then weight = 0 end
  if kind == PERIOD then
    used = tonumber(call('GET', KEYS[i]) or 0)
  elseif kind == SLOTS then
    if take then
      call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
      used = call('ZCARD', KEYS[i])
    else
      used = call('ZCOUNT', KEYS[i], '(' .. string.format('%.0f', now), '+inf')
    end
  else
    local l = read_log(KEYS[i])
    if l then
      prune(l, now, window)
      logs[i], used = l, l.sum
    end
  end
  if weight > 0 and used + weight > limit then
    if refused == 0 then refused = i end
    if weight > limit then
      retry = NEVER
    elseif kind == PERIOD then
      retry = math.max(1, last - now)
    elseif kind == SLOTS then
      local first = call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
      retry = math.min(1000, math.max(1, first[2] - now)) -- when a call will end nobody knows
    else
      retry = retry_after(logs[i], now, window, used + weight - limit)
    end
  end
  local room = math.floor(math.max(0, limit - used - weight) / 8)
  if kind == ATTEMPTS then
    calls, lent_from_attempts = math.min(calls, room), true
  elseif kind == SLOTS then
    block = 0 -- a slot belongs to one call
  else
    block = math.min(block, room)
  end
  specs[i] = {kind = kind, weight = weight, window = window, last = last}
  states[i] = {math.max(0, limit - used), retry}
end

if refused > 0 or not loans or block == 0 or lent_from_attempts and calls == 0 then block, calls, ahead = 0, 0, 0 end
if refused == 0 then
  for i, b in ipairs(specs) do
    local weight = b.weight
    if b.kind == ATTEMPTS then weight = weight + calls elseif b.kind ~= SLOTS then weight = weight + block end
    states[i][1] = math.max(0, states[i][1] - weight)
    if take and weight > 0 then
      if b.kind == PERIOD then
        count(KEYS[i], weight, now, b.last)
      elseif b.kind == SLOTS then
        call('ZADD', KEYS[i], string.format('%.0f', now + b.last), slot)
        call('PEXPIRE', KEYS[i], b.last)
      else
        add(logs[i], KEYS[i], now, ahead, weight, b.window, b.last)
      end
    end
  end
  if take and mark then
    if replay == 1 then
      call('HINCRBY', mark, 'holders', 1)
    else
      call('HSET', mark, 'id', ARGV[9], 'units', ARGV[8], 'holders', 1,
        'at', string.format('%.0f', now), 'keys', redis.sha1hex(table.concat(KEYS, ' ')))
      call('PEXPIRE', mark, ARGV[10])
    end
  end
  if take and loans and block > 0 then
    call('HSET', loans, ARGV[7], 1)
    call('PEXPIRE', loans, ahead + 3600000)
  end
end

local reply
if struct then
  reply = {struct.pack('>I6BBI6I6I6', now, refused, replay, units, block, calls)}
  for _, s in ipairs(states) do reply[#reply + 1] = struct.pack('>I6I6', s[1], s[2]) end
else
  reply = {pack_number(now, 6), pack_number(refused, 1), pack_number(replay, 1), pack_number(units, 6),
    pack_number(block, 6), pack_number(calls, 6)}
  for _, s in ipairs(states) do reply[#reply + 1] = pack_number(s[1], 6) .. pack_number(s[2], 6) end
end
return table.concat(reply) .. id
