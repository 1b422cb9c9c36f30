#!lua flags=allow-oom
-- back_off: journal a failed attempt that is retried later, and set the timer that wakes the execution.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 record, as for write  7 delay in ms
--       8 the races it takes part in, as for join  9.. events, as for write
-- Returns as write_step does.
-- #include fence
-- #include clock
-- #include attempt
-- #include resolve
-- #include stream
local P, id, entry, owner, known, key, record, delay, races = KEYS[1], unpack(ARGV, 1, 8)
local EVENTS <const> = 9
local count, old, is = fence(P, id, entry, owner, known, key)
if count < 0 or superseded(old, record) then return count end
tell(P, id, is, {unpack(ARGV, EVENTS)})
claim(P, id, owner, is, now)
note_wait(P, id, key)
redis.call('HSET', P .. 'journal:' .. id, '', count + 1, key, record .. cmsgpack.pack(now))
redis.call('ZADD', P .. 'timers', now + tonumber(delay), 'b' .. id .. ' ' .. key)
if not join(P, id, races) then close(P, id, key, 'abandoned') end
return changes(P, id)
