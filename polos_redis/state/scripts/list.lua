#!lua flags=no-writes
-- list: executions of some statuses and workflows, newest first, a page.
-- KEYS  1 the partition's prefix
-- ARGV  1 created before (us, exclusive) or '+inf'  2 limit  3 workflow, or '' for all  4.. statuses
-- Returns a list of {id, workflow, status, created us, started ms, finished ms}.
local P, limit = KEYS[1], tonumber(ARGV[2])
local workflows = ARGV[3] ~= '' and {ARGV[3]} or redis.call('SMEMBERS', P .. 'workflows')
local before = ARGV[1] == '+inf' and '+inf' or '(' .. ARGV[1]
local found = {}
for _, workflow in ipairs(workflows) do
  for i = 4, #ARGV do
    local page = redis.call('ZREVRANGEBYSCORE', P .. 'index:' .. ARGV[i] .. ':' .. workflow, before, '-inf',
      'WITHSCORES', 'LIMIT', 0, limit)
    for j = 1, #page, 2 do found[#found + 1] = {page[j], tonumber(page[j + 1])} end
  end
end
table.sort(found, function(a, b) if a[2] == b[2] then return a[1] > b[1] end return a[2] > b[2] end)
local result = {}
for i = 1, math.min(limit, #found) do
  local id = found[i][1]
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'workflow', 'status', 'created', 'started', 'finished')
  result[i] = {id, e[1], e[2], string.format('%.0f', found[i][2]), e[4], e[5]}
end
return result
