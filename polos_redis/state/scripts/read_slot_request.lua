#!lua flags=no-writes
-- read_slot_request: look up what an execution wants of its semaphore now.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution
-- Returns {semaphore, limit, version, 1 when it wants a slot or holds one else 0}, or nil when it is in no semaphore.
-- #include relations
local P, id = KEYS[1], unpack(ARGV)
local status, packed = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations'))
local relations = read_relations(packed)
if not relations.semaphore then return false end
local wants = status == 'queued' and not redis.call('ZSCORE', P .. 'timers', 'p' .. id)
return {relations.semaphore, relations.limit, relations.slot or 0, wants and 1 or 0}
