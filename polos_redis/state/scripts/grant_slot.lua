#!lua flags=allow-oom
-- admit: an execution has got its place in a semaphore of another partition.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution  2 the version that got the place
-- Returns 1 when it is runnable, 0 when it has changed its mind since: then the place is to be given up for that version.
-- #include semaphore
local P, id = KEYS[1], ARGV[1]
local relations = read_relations(redis.call('HGET', P .. 'exec:' .. id, 'relations'))
return relations.slot == tonumber(ARGV[2]) and admit(P, id) and 1 or 0
