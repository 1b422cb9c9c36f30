#!lua flags=no-writes
-- list_executions: a page of executions of some statuses and workflows, newest first.
-- KEYS  1 the partition's prefix
-- ARGV  1 created before (us, exclusive) or '+inf'  2 limit  3 workflow, or '' for all  4.. statuses
-- Returns a list of {id, workflow, status, created us, started ms, finished ms}.
local P, before, limit, only = KEYS[1], unpack(ARGV, 1, 3)
local STATUSES <const> = 4
limit = tonumber(limit)
if before ~= '+inf' then before = '(' .. before end
local found = {}
for _, workflow in ipairs(only ~= '' and {only} or redis.call('SMEMBERS', P .. 'workflows')) do
  for i = STATUSES, #ARGV do
    local page = redis.call('ZREVRANGEBYSCORE', P .. 'index:' .. ARGV[i] .. ':' .. workflow, before, '-inf',
      'WITHSCORES', 'LIMIT', 0, limit)
    for j = 1, #page, 2 do found[#found + 1] = {id = page[j], created = tonumber(page[j + 1])} end
  end
end
table.sort(found, function(a, b)
  if a.created == b.created then return a.id > b.id end
  return a.created > b.created
end)
local result = {}
for i = 1, math.min(limit, #found) do
  local id = found[i].id
  local workflow, status, started, finished = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'status', 'started', 'finished'))
  result[i] = {id, workflow, status, string.format('%.0f', found[i].created), started, finished}
end
return result
