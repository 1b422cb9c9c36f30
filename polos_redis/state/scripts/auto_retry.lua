#!lua flags=allow-oom
-- auto_retry: retry a failed execution automatically: it continues from its journal as a new run.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 error  6 how many retries it has  7 delay in ms
--       8.. events that come before the retry's
-- Returns the number of the new run; 0 when no retry is left (nothing is changed); -1 or -2 as write_step does.
-- #include fence
-- #include rerun
local P, id, entry, owner, known, error, most, delay = KEYS[1], unpack(ARGV, 1, 7)
local EVENTS <const> = 8
local exec = P .. 'exec:' .. id
local count, _, is = fence(P, id, entry, owner, known, '', unpack(ENDING_FIELDS, FURTHER))
if count < 0 then return count end
if tonumber(redis.call('HGET', exec, 'retried') or 0) >= tonumber(most) then return 0 end
claim(P, id, owner, is, now)
redis.call('HINCRBY', exec, 'retried', 1)
redis.call('HSET', exec, 'last_error', error)
if #ARGV >= EVENTS then tell(P, id, is, {unpack(ARGV, EVENTS)}) end
return rerun(P, id, is, tonumber(delay))
