-- Receipts. A question leaves behind that it was carried out, so that one whose
-- answer was lost can be looked for: in the hash RECEIPTS of the tenant, in the
-- field of the lane that it came by, which the next question of that lane takes
-- over. A receipt is the number of the question (6 bytes), the time in ms (6), and
-- what else it takes to undo it. One of which it has been said afterwards what it
-- did finds its own number there if it comes after all, and is not carried out.

local KEPT = 108000000 -- how long a receipt is kept at most
local SURE = KEPT - 16777216 -- and at least

-- leave leaves a receipt in the place of what was left before, if anything was.
local function leave(receipts, lane, number, before, now, rest)
  local stamp = pack_number(now, 6)
  call('HSET', receipts, lane, number .. stamp .. rest)
  -- The first three bytes of a time change every 16777216 ms.
  if before and string.sub(before, 7, 9) == string.sub(stamp, 1, 3) then return end
  call('PEXPIRE', receipts, KEPT)
  -- Whoever comes new looks for some that are gone.
  local some = call('HRANDFIELD', receipts, 32, 'WITHVALUES')
  for i = 1, #some, 2 do
    if unpack_numbers(some[i + 1], 7, {6}) <= now - KEPT then call('HDEL', receipts, some[i]) end
  end
end
