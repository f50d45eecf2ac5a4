-- Sets the counters of a tenant to zero.
--
-- KEYS: one per bound, and what else is removed.
-- ARGV: 1 the bounds.

local struct = rawget(_G, 'struct')
local call = redis.call
local PERIOD = 2
local FORMAT, BOUND = '>BI6I6I6I6', 25

--LOG--

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV[1] / BOUND do
  -- Units that were taken before are not given back: others have taken them since.
  -- A window needs no note of it, it knows when its units were taken.
  if read_bound(ARGV[1], i) == PERIOD and call('EXISTS', KEYS[i] .. '#since') == 1 then
    call('HSET', KEYS[i] .. '#since', 'reset', string.format('%.0f', now))
  end
end
for _, key in ipairs(KEYS) do call('DEL', key) end
return ''
