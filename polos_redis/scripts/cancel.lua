#!lua flags=allow-oom
-- cancel: end an execution that has not finished. Of answer, timeout and cancel exactly one decides a wait.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw  3 who, or ''
-- Returns {'missing'}, {'finished', status}, {'run', current run} when it is another run by now, or {'cancelled'}.
-- #include clock
-- #include queue
-- #include record
-- #include suspension
-- #include backoff
-- #include ending
local P, id, by = KEYS[1], ARGV[1], ARGV[3]
local exec = P .. 'exec:' .. id
local e = redis.call('HMGET', exec, unpack(ENDING_FIELDS))
if not e[1] then return {'missing'} end
local run = redis.call('HGET', exec, 'run')
if run ~= ARGV[2] then return {'run', run} end
if e[1] ~= 'queued' and e[1] ~= 'waiting' then return {'finished', e[1]} end
local event = '\130' .. cmsgpack.pack('status') .. cmsgpack.pack('cancelled')
  .. cmsgpack.pack('cancelled_by') .. (by == '' and '\192' or cmsgpack.pack(by))
ending(P, id, now, e, 'cancelled', 'cancelled_by', by, event, {}, {})
if e[3] then
  redis.pcall('SPUBLISH', P .. 'reply:' .. string.match(e[3], '^[^:]*'), cmsgpack.pack({'cancelled', id}))
end
return {'cancelled'}
