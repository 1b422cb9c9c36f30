#!lua flags=no-writes
-- semaphore: what an execution wants of its semaphore now.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution
-- Returns {semaphore, limit, version, 1 when it wants a place or has one}, or nil when it is in no semaphore.
-- #include relations
local P, id = KEYS[1], ARGV[1]
local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations')
local relations = read_relations(e[2])
if not relations.semaphore then return false end
local wants = e[1] == 'queued' and not redis.call('ZSCORE', P .. 'timers', 'p' .. id)
return {relations.semaphore, relations.limit, relations.slot or 0, wants and 1 or 0}
