-- Acknowledges entries of a stream that the store has, and drops what nobody
-- needs any more: all that comes before the first entry that was delivered and
-- not acknowledged, or all that was delivered if there is none. Never what
-- nobody has read.
--
-- KEYS: the stream. ARGV: 1 the group, then the ids.

local group = ARGV[1]
for i = 2, #ARGV, 1000 do
  redis.call('XACK', KEYS[1], group, unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
local pending = redis.call('XPENDING', KEYS[1], group)
local keep = pending[2]
if tonumber(pending[1]) == 0 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
    if facts['name'] == group then
      local ms, seq = string.match(facts['last-delivered-id'], '^(%d+)-(%d+)$')
      keep = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
    end
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', keep)
