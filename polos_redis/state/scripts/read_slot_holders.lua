#!lua flags=no-writes
-- read_slot_holders: a page of the executions that hold slots of a semaphore and live in another partition.
-- KEYS  1 the prefix of the semaphore's home partition
-- ARGV  1 semaphore  2 cursor, '0' for the first page
-- Returns {the next cursor, '0' after the last page, flat list of executions and their versions}, or nil when the
-- semaphore has neither holders nor waiters.
-- #include append
local P, semaphore, cursor = KEYS[1], unpack(ARGV)
local slots = P .. 'slots:' .. semaphore
if redis.call('EXISTS', slots) == 0 then return false end
local next_cursor, page = unpack(redis.call('HSCAN', slots, cursor, 'COUNT', 100))
local found = {}
for i = 1, #page, 2 do
  local id, version = page[i], page[i + 1]
  if redis.call('EXISTS', P .. 'exec:' .. id) == 0 and not redis.call('ZSCORE', P .. 'waiters:' .. semaphore, id) then
    append(found, id, version)
  end
end
return {next_cursor, found}
