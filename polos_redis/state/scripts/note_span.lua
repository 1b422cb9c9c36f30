#!lua flags=allow-oom
-- note_span: store the origin of an execution with the span of its activation, which is about to end.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 origin (codec)
-- Returns 0; -1 when another activation has taken over.
-- #include fence
local P, id, entry, owner, origin = KEYS[1], unpack(ARGV)
if not may_write(P, id, entry, owner) then return -1 end
redis.call('HSET', P .. 'exec:' .. id, 'origin', origin)
return 0
