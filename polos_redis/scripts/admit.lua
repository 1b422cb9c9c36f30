#!lua flags=allow-oom
-- admit: an execution has got its place in a lane of another partition.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution
-- Returns {1 when it is runnable, 0 when it no longer wants to, its version}.
-- #include lane
local wants = admit(KEYS[1], ARGV[1])
return {wants, read_ties(redis.call('HGET', KEYS[1] .. 'exec:' .. ARGV[1], 'ties')).place or 0}
