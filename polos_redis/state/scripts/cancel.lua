#!lua flags=allow-oom
-- cancel: end an execution that has not finished, and its descendants. Of answer, timeout and cancel exactly one
-- decides a wait. The first hundred children are ended here, all others by the timers.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw  3 who, or ''
-- Returns {'missing'}, {'finished', status}, {'run', current run} when it is another run by now, or {'cancelled'}.
-- #include termination
local P, id = KEYS[1], ARGV[1]
local exec = P .. 'exec:' .. id
local e = redis.call('HMGET', exec, unpack(ENDING_FIELDS))
if not e[1] then return {'missing'} end
local run = redis.call('HGET', exec, 'run')
if run ~= ARGV[2] then return {'run', run} end
if e[1] ~= 'queued' and e[1] ~= 'waiting' then return {'finished', e[1]} end
cancel(P, id, e, ARGV[3])
if read_relations(e[12]).kids then cancel_children(P, id, 100) end
return {'cancelled'}
