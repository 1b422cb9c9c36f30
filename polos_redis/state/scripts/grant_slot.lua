#!lua flags=allow-oom
-- grant_slot: an execution was granted a slot of a semaphore in another partition: make it runnable.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution  2 the version that was granted the slot
-- Returns 1 when it is runnable, 0 when it has changed its mind since: then that version's slot is to be released.
-- #include semaphore
local P, id, version = KEYS[1], unpack(ARGV)
local relations = read_relations(redis.call('HGET', P .. 'exec:' .. id, 'relations'))
return relations.slot == tonumber(version) and admit(P, id) and 1 or 0
