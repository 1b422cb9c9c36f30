#!lua flags=no-writes
-- holders: who has a place in a lane and lives in another partition, a page.
-- KEYS  1 the prefix of the lane's home partition
-- ARGV  1 lane  2 cursor, '0' for the first page
-- Returns {the next cursor, '0' after the last page, executions and their versions}, or nil when nobody has a place or
-- stands in line.
local P, lane = KEYS[1], ARGV[1]
local places = P .. 'places:' .. lane
if redis.call('EXISTS', places) == 0 then return false end
local page = redis.call('HSCAN', places, ARGV[2], 'COUNT', 100)
local found = {}
for i = 1, #page[2], 2 do
  local id = page[2][i]
  if redis.call('EXISTS', P .. 'exec:' .. id) == 0 and not redis.call('ZSCORE', P .. 'line:' .. lane, id) then
    found[#found + 1] = id
    found[#found + 1] = page[2][i + 1]
  end
end
return {page[1], found}
