#!lua flags=allow-oom
-- place: an execution of another partition asks for a place in a semaphore, or gives its place up. As that can be lost on
-- one of the two sides when a store goes back in time, an errand looks now and then at who holds slots.
-- KEYS  1 the prefix of the semaphore's home partition
-- ARGV  1 semaphore  2 limit it was begun with  3 execution  4 its version  5 '1' to ask, '0' to give up
--       6 ms until the first look at the holders
-- Returns 1 when it holds a place now, else 0.
-- #include semaphore
local P, semaphore, limit, id, version = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
if ARGV[5] ~= '1' then
  release_slot(P, semaphore, limit, id, version)
  return 0
end
redis.call('ZADD', P .. 'errands', 'NX', now + tonumber(ARGV[6]), 'h' .. limit .. ' ' .. semaphore)
return acquire_slot(P, semaphore, limit, id, version) and 1 or 0
