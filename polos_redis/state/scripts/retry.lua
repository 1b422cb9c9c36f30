#!lua
-- retry: continue a failed execution from its journal as a new run, or a stuck one from its whole journal.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw  3 when the execution that the caller saw was created, us; left out for any
-- Returns {'missing'}, {'run', current run} when it is another run by now, {'status', status} when it has not
-- failed and is not stuck, or {'retried', new run}.
-- #include rerun
local P, id, seen, created = KEYS[1], unpack(ARGV)
local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
if not e[EXEC_STATUS] or (created and e[EXEC_CREATED] ~= created) then return {'missing'} end
local run = redis.call('HGET', P .. 'exec:' .. id, 'run')
if run ~= seen then return {'run', run} end
if e[EXEC_STATUS] == 'stuck' then return {'retried', unstick(P, id, e)} end
if e[EXEC_STATUS] ~= 'failed' then return {'status', e[EXEC_STATUS]} end
return {'retried', rerun(P, id, e, 0)}
