#!lua flags=no-writes
-- lane: look up what an execution wants of its lane now.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution
-- Returns {lane, limit, version, 1 when it wants a place or has one else 0}, or nil when it is in no lane.
-- #include ties
local P, id = KEYS[1], unpack(ARGV)
local status, packed = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'ties'))
local ties = read_ties(packed)
if not ties.lane then return false end
local wants = status == 'queued' and not redis.call('ZSCORE', P .. 'timers', 'p' .. id)
return {ties.lane, ties.limit, ties.place or 0, wants and 1 or 0}
