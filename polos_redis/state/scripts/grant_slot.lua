#!lua flags=allow-oom
-- admit: an execution has got a place in a semaphore of another partition: make it runnable.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution  2 the version that got the place
-- Returns 1 when it is runnable, 0 when it has changed its mind since: then that version's place is to be given up.
-- #include semaphore
local P, id, version = KEYS[1], unpack(ARGV)
local relations = read_relations(redis.call('HGET', P .. 'exec:' .. id, 'relations'))
return relations.slot == tonumber(version) and admit(P, id) and 1 or 0
