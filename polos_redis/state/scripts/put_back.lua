#!lua flags=allow-oom
-- put_back: return an execution to the queue after a delay, because this worker does not know its workflow.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 id  3 entry  4 delay in ms
-- Returns 1, or 0 when the entry was not the live one (it is deleted).
-- #include semaphore
local P, queue, id, entry, delay = KEYS[1], unpack(ARGV)
local status, live, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'relations'))
take_off(P, queue, entry)
if status ~= 'queued' or live ~= entry then return 0 end
redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner')
redis.call('ZADD', P .. 'timers', now + tonumber(delay), 'p' .. id)
leave(P, id, read_relations(relations))
return 1
