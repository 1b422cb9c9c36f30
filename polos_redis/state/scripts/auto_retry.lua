#!lua flags=allow-oom
-- again: an execution that has failed is tried again by itself: it goes on from its journal as a new run.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 error  6 how often it is tried again at the most  7 ms until then
--       8.. events that come before it
-- Returns the number of the new run; 0 when it has been tried often enough (nothing is changed); -1 or -2 as write does.
-- #include fence
-- #include rerun
local P, id = KEYS[1], ARGV[1]
local exec = P .. 'exec:' .. id
local n, _, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], '', unpack(ENDING_FIELDS, 5))
if n < 0 then return n end
if tonumber(redis.call('HGET', exec, 'retried') or 0) >= tonumber(ARGV[6]) then return 0 end
claim(P, id, ARGV[3], e, now)
redis.call('HINCRBY', exec, 'retried', 1)
redis.call('HSET', exec, 'last_error', ARGV[5])
if ARGV[8] then redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, 8)) end
return rerun(P, id, e, tonumber(ARGV[7]))
