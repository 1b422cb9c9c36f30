#!lua flags=allow-oom
-- errand: one is done, or has to be done (again) later.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it, '' for a new one  3 ms from now until it is due again, or ''
--       4 or due at this ms
-- Returns 1, or 0 when it was put off or renewed meanwhile (nothing is changed).
-- #include clock
local errands = KEYS[1] .. 'errands'
if ARGV[2] ~= '' and tonumber(redis.call('ZSCORE', errands, ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
local due = ARGV[3] ~= '' and now + tonumber(ARGV[3]) or tonumber(ARGV[4])
if due then redis.call('ZADD', errands, due, ARGV[1]) else redis.call('ZREM', errands, ARGV[1]) end
return 1
