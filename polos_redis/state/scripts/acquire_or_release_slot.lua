#!lua flags=allow-oom
-- acquire_or_release_slot: request a slot of a semaphore for an execution of another partition, or release it. Either
-- side can lose this when a store goes back in time, so an errand checks from time to time who holds slots.
-- KEYS  1 the prefix of the semaphore's home partition
-- ARGV  1 semaphore  2 limit that the execution came with  3 execution  4 its version  5 '1' to request, '0' to release
--       6 ms until the first check of the holders
-- Returns 1 when it holds a slot now, else 0.
-- #include semaphore
local P, semaphore, limit, id, version, asks, delay = KEYS[1], unpack(ARGV)
limit, version = tonumber(limit), tonumber(version)
if asks ~= '1' then
  release_slot(P, semaphore, limit, id, version)
  return 0
end
redis.call('ZADD', P .. 'errands', 'NX', now + tonumber(delay), 'h' .. limit .. ' ' .. semaphore)
return acquire_slot(P, semaphore, limit, id, version) and 1 or 0
