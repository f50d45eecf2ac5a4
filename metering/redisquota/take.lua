-- Takes the units of a call from all of its bounds, or from none.
--
-- KEYS: one per bound, the one of the tenant's receipts if one is asked for, then
--       the one of the idempotency key if there is one, or the one of the tenant's
--       loans if units are to be lent.
-- ARGV: 1 the bounds, 2 the lane (8 bytes) and the number of the receipt, empty if
--       none is asked for; the others are left out if they are all as for a plain
--       call: 3 "1" to take and "0" to look, 4 the name of the slots that the call
--       holds, 5 and 6 the units and calls to lend beside those of the call, 7 for
--       how long, in ms, 8 the name of the loan, 9 the units of the call, 10 the id
--       of its event, 11 how long an idempotency key is remembered in ms.
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

local bounds, mark = #ARGV[1] / BOUND, nil
local receipts, lane, number, before
if ARGV[2] == '' then
  mark = KEYS[bounds + 1]
else
  receipts, mark = KEYS[bounds + 1], KEYS[bounds + 2]
  lane, number = string.sub(ARGV[2], 1, 8), string.sub(ARGV[2], 9)
  before = call('HGET', receipts, lane)
  if before and string.sub(before, 1, 6) == number then return redis.error_reply('WITHDRAWN it has been settled without') end
end

-- The common case, in as few steps as it takes: a plain call, windows from
-- which nothing has to be dropped and whose open entries take it. It comes
-- before the functions because to make those takes longer than to decide.
if struct and #ARGV == 2 and (before or not receipts) then
  local packed, stamp, headers, left = ARGV[1], struct.pack('>I6', now), {}, ''
  local fits = not receipts or string.sub(before, 7, 9) == string.sub(stamp, 1, 3) -- see receipt.lua
  for i = 1, bounds do
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
    for i = 1, bounds do call('SETRANGE', KEYS[i], 0, headers[i]) end
    if receipts then call('HSET', receipts, lane, number .. stamp) end
    return struct.pack('>I6BBI6I6I6', now, 0, 0, 0, 0, 0) .. left
  end
end

--LOG--
--RECEIPT--

local take, slot = ARGV[3] ~= '0', ARGV[4]
local block, calls, ahead = tonumber(ARGV[5] or 0), tonumber(ARGV[6] or 0), tonumber(ARGV[7] or 0)
local loans, replay, units, id = nil, 0, 0, ''
if mark and ARGV[8] ~= '' then
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
    used = call('ZCOUNT', KEYS[i], '(' .. string.format('%.0f', now), '+inf')
    if take then -- a few at once: a process that died may have left thousands
      local over = call('ZCARD', KEYS[i]) - used
      if over > 0 then call('ZREMRANGEBYRANK', KEYS[i], 0, math.min(over, 500) - 1) end
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
      local first = call('ZRANGEBYSCORE', KEYS[i], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
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
      call('HSET', mark, 'id', ARGV[10], 'units', ARGV[9], 'holders', 1,
        'at', string.format('%.0f', now), 'keys', names(bounds, mark))
      call('PEXPIRE', mark, ARGV[11])
    end
  end
  if take and loans and block > 0 then
    call('HSET', loans, ARGV[8], 1)
    call('PEXPIRE', loans, ahead + 86400000)
  end
  if take and receipts then
    local rest = ''
    if block > 0 or replay == 1 then
      rest = pack_number(block, 6) .. pack_number(calls, 6) .. pack_number(replay, 1) .. id
    end
    leave(receipts, lane, number, before, now, rest)
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
