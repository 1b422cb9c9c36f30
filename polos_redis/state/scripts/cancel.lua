#!lua flags=allow-oom
-- cancel: end an execution that has not finished, and its descendants. Exactly one of answer, timeout and cancel
-- decides a wait. The first hundred children are ended here, all others by the timers.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw  3 who, or ''
--       4 when the execution that the caller saw was created, us; left out for any
-- Returns {'missing'}, {'finished', status}, {'run', current run} when it is another run by now, or {'cancelled'}, also
-- when the same person has cancelled it before: the reply may have been lost.
-- #include cancelling
local P, id, seen, by, created = KEYS[1], unpack(ARGV)
local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
if not e[EXEC_STATUS] or (created and e[EXEC_CREATED] ~= created) then return {'missing'} end
local run, cancelled_by = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'run', 'cancelled_by'))
if run ~= seen then return {'run', run} end
if e[EXEC_STATUS] == 'cancelled' and cancelled_by == by then return {'cancelled'} end
if not is_live(e[EXEC_STATUS]) then return {'finished', e[EXEC_STATUS]} end
cancel(P, id, e, by)
if read_relations(e[EXEC_RELATIONS]).kids then cancel_children(P, id, 100) end
return {'cancelled'}
