-- Puts into the counter of a period what it does not know because Redis lost it.
-- Beside each counter stands since when it has counted: what was used before is
-- known from elsewhere, and how much of that is in the counter already.
--
-- KEYS: 1 the counter, 2 what stands beside it.
-- ARGV: 1 until when both are kept, in ms; to seed also 2 since when the counter
--       has counted, in ms, 3 the units that were used before, 4 "1" if this is
--       the last word.
-- Returns since when in ms, and "!" behind it once the last word was spoken.

local call = redis.call
local known = call('HMGET', KEYS[2], 'since', 'before', 'last')
local since, before = known[1], tonumber(known[2] or 0)
if not since then
  -- A counter of unknown beginning: all that it has counted comes before now, and
  -- the ledger will say so too.
  local time = call('TIME')
  since = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  before = tonumber(call('GET', KEYS[1]) or 0)
  call('HSET', KEYS[2], 'since', since, 'before', string.format('%.0f', before))
  call('PEXPIREAT', KEYS[2], ARGV[1])
end
if ARGV[2] == since then
  local units = tonumber(ARGV[3])
  if units > before then
    call('INCRBY', KEYS[1], string.format('%.0f', units - before))
    call('PEXPIREAT', KEYS[1], ARGV[1])
    call('HSET', KEYS[2], 'before', ARGV[3])
  end
  if ARGV[4] == '1' then call('HSET', KEYS[2], 'last', 1) end
end
if known[3] then return since .. '!' end
return since
