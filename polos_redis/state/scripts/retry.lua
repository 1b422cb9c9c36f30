#!lua
-- retry: a failed execution goes on from its journal as a new run.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw
-- Returns {'missing'}, {'run', current run} when it is another run by now, {'status', status} when it has not
-- failed, or {'retried', new run}.
-- #include rerun
local P, id = KEYS[1], ARGV[1]
local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
if not e[1] then return {'missing'} end
local run = redis.call('HGET', P .. 'exec:' .. id, 'run')
if run ~= ARGV[2] then return {'run', run} end
if e[1] ~= 'failed' then return {'status', e[1]} end
return {'retried', rerun(P, id, e, 0)}
