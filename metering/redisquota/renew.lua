-- Holds the slots of a call that runs for another while.
--
-- KEYS: one per bound that counts calls in flight.
-- ARGV: 1 the name of the slots, then for each bound for how long in ms.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', now + ARGV[i + 1]), ARGV[1])
  redis.call('PEXPIRE', key, ARGV[i + 1])
end
return 'OK'
