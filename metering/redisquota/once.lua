-- Leads a script that must run once for the entries of a journal. The last of its
-- ARGV: the key that remembers the journal's last entry, the first and the last
-- entry that this is for, and how long, in ms, to remember the last.
do
  local key, first, last, ttl = ARGV[#ARGV - 3], ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]
  local done = tonumber(redis.call('GET', key) or -1)
  if done >= tonumber(first) then return string.format('%.0f', done) end
  redis.call('SET', key, last, 'PX', ttl)
end
