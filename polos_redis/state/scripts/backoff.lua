#!lua flags=allow-oom
-- backoff: journal a failed attempt whose retry comes later, and set the timer that wakes the execution.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 record, as for write  7 delay in ms
--       8 the races it takes part in, as for join  9.. events, as for write
-- Returns as write does.
-- #include fence
-- #include clock
-- #include attempt
-- #include resolve
local P, id, key = KEYS[1], ARGV[1], ARGV[5]
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key)
if n < 0 or superseded(old, ARGV[6]) then return n end
claim(P, id, ARGV[3], e, now)
local journal = P .. 'journal:' .. id
redis.call('HSET', journal, '', n + 1, key, ARGV[6] .. cmsgpack.pack(now))
redis.call('ZADD', P .. 'timers', now + tonumber(ARGV[7]), 'b' .. id .. ' ' .. key)
note_wait(P, id, key)
if not join(P, id, ARGV[8], now) then close(P, id, key, now, 'abandoned') end
if #ARGV > 8 then
  redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, 9))
end
return tonumber(redis.call('HGET', journal, ''))
