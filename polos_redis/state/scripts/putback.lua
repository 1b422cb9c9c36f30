#!lua flags=allow-oom
-- putback: this worker does not know the workflow: the execution goes back to the queue after a delay.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 id  3 entry  4 delay in ms
-- Returns 1, or 0 when the entry was not the live one (it is deleted).
-- #include semaphore
local P, id, entry = KEYS[1], ARGV[2], ARGV[3]
local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'relations')
take_off(P, ARGV[1], entry)
if e[1] ~= 'queued' or e[2] ~= entry then return 0 end
redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner')
redis.call('ZADD', P .. 'timers', now + tonumber(ARGV[4]), 'p' .. id)
leave(P, id, read_relations(e[3]))
return 1
