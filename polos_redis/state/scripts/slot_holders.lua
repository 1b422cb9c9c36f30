#!lua flags=no-writes
-- holders: who has a place in a semaphore and lives in another partition, a page.
-- KEYS  1 the prefix of the semaphore's home partition
-- ARGV  1 semaphore  2 cursor, '0' for the first page
-- Returns {the next cursor, '0' after the last page, executions and their versions}, or nil when nobody has a place or
-- stands in line.
local P, semaphore = KEYS[1], ARGV[1]
local slots = P .. 'slots:' .. semaphore
if redis.call('EXISTS', slots) == 0 then return false end
local page = redis.call('HSCAN', slots, ARGV[2], 'COUNT', 100)
local found = {}
for i = 1, #page[2], 2 do
  local id = page[2][i]
  if redis.call('EXISTS', P .. 'exec:' .. id) == 0 and not redis.call('ZSCORE', P .. 'waiters:' .. semaphore, id) then
    found[#found + 1] = id
    found[#found + 1] = page[2][i + 1]
  end
end
return {page[1], found}
