#!lua flags=no-writes
-- list_executions: a page of executions of some statuses and workflows, newest first. However many there are, it reads
-- few rows beyond the page.
-- KEYS  1 the partition's prefix
-- ARGV  1 created before (us, exclusive) or '+inf'  2 limit  3 the only workflow to return rows of, or '' for all
--       4 the only workflows whose trees to return rows of (msgpack list of those of the roots), or '' for all
--       5 how many statuses follow  6.. statuses, then workflows to look at, '' among them for those without an index
-- Returns {where the next page begins (us), '' after the last one, a list of {id, workflow, status, created us, started
-- ms, finished ms, start of a delayed one in ms}}.
-- #include index
-- #include roots
local P, before, limit, only, roots, statuses = KEYS[1], unpack(ARGV, 1, 5)
local NAMES <const> = 6
roots = read_roots(roots)
limit = tonumber(limit)
if before ~= '+inf' then before = '(' .. before end
local workflows = NAMES + tonumber(statuses) -- where they begin
local found, sources = {}, {}
for i = workflows, #ARGV do
  for j = NAMES, workflows - 1 do
    sources[#sources + 1] = {key = index_of(P, ARGV[j], ARGV[i]), from = 0}
  end
end

-- read: read some rows of an index; its `last` row is nil at its end.
local function read(source, count)
  local page = redis.call('ZREVRANGEBYSCORE', source.key, before, '-inf', 'WITHSCORES', 'LIMIT', source.from, count)
  for i = 1, #page, 2 do found[#found + 1] = {id = page[i], created = tonumber(page[i + 1])} end
  source.from, source.last = source.from + count, #page == 2 * count and found[#found].created or nil
end

local count = math.min(limit, math.ceil(2 * limit / math.max(1, #sources)))
local behind = sources
while #behind > 0 do
  for _, source in ipairs(behind) do read(source, count) end
  table.sort(found, function(a, b)
    if a.created == b.created then return a.id > b.id end
    return a.created > b.created
  end)
  local page_ends = found[limit] and found[limit].created or -1
  behind, count = {}, 2 * count
  -- an index that has been read down to its last row only, and not beyond the page, may have more for it
  for _, source in ipairs(sources) do
    if source.last and source.last > page_ends then behind[#behind + 1] = source end
  end
end

local result, last = {}, ''
for i = 1, math.min(limit, #found) do
  local id, created = found[i].id, string.format('%.0f', found[i].created)
  local workflow, status, started, finished, entry = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'status', 'started', 'finished', 'entry'))
  if workflow and (only == '' or only == workflow) and has_root(P, id, workflow, roots) then
    local starts = status == 'queued' and not entry and redis.call('ZSCORE', P .. 'timers', 'p' .. id)
    result[#result + 1] = {id, workflow, status, created, started, finished, starts}
  end
  if i == limit then last = created end
end
return {last, result}
