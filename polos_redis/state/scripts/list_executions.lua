#!lua flags=no-writes
-- list_executions: a page of executions of some statuses and workflows, newest first: by creation, or where only queued
-- or running ones are wanted, by the time they were queued. However many there are, it reads few rows beyond the page,
-- and ends it early behind many that are of other statuses or workflows.
-- KEYS  1 the partition's prefix
-- ARGV  1 listed before (us), or '+inf'  2 the first id not to list of those at that time, '' to list none of them
--       3 limit  4 the only workflow to return rows of, or '' for all
--       5 the only workflows whose trees to return rows of (msgpack list of those of the roots), or '' for all
--       6 how many rows to look at, about, beyond four for each of the page  7 how many statuses follow
--       8 how many names follow
--       9.. statuses, the words of status.lua; next to 'completed', the stored ones; names of indexes to look at,
--       queues to look at
-- Returns {where the next page begins: us and id, '' and '' after the last one, a list of {id, workflow, stored status,
-- created us, started ms, finished ms, start of a delayed one in ms, version, listed
-- at us}}.
-- #include index
-- #include roots
-- #include status
local P, before, before_id, limit, only, roots, budget, statuses, names = KEYS[1], unpack(ARGV, 1, 8)
local WORDS <const> = 9
local FIRST_STEP <const> = 1000 -- rows to pass over at once
local MOST_READ <const> = 1000 -- of a source at once
local LAST_NUMBER <const> = 999 -- of the entries of a millisecond that are told apart
roots, limit = read_roots(roots), tonumber(limit)
budget = tonumber(budget) + 4 * limit
local first_name = WORDS + tonumber(statuses)
local first_queue = first_name + tonumber(names)
local wanted, stored, found, sources = {}, {}, {}, {}
for i = WORDS, first_name - 1 do wanted[ARGV[i]] = true end
for word in pairs(wanted) do stored[word == 'running' and 'queued' or word == 'paused' and 'stuck' or word] = true end
local all_stuck = wanted.completed or (wanted.stuck or false) == (wanted.paused or false)
local start = before == '+inf' and math.huge or tonumber(before)
local place = {at = start, id = before_id}

-- is_before: whether one row comes before another: it is newer, or its id is higher, byte by byte as in an index. The
-- server's locale may compare them in another way.
local function is_before(one, other)
  if one.at ~= other.at then return one.at > other.at end
  for i = 1, math.min(#one.id, #other.id) do
    local a, b = string.byte(one.id, i), string.byte(other.id, i)
    if a ~= b then return a > b end
  end
  return #one.id > #other.id
end

-- add: take in a row of a source, unless it is on an earlier page, or is only passed over.
local function add(source, is_listed, id, at, entry)
  local row = {id = id, at = at, entry = entry}
  if is_listed and is_before(place, row) then found[#found + 1] = row end
  source.last = row
end

-- pass_over: skip rows of executions that wait or have failed, however many they are: counting is cheap.
local function pass_over(source)
  local step = FIRST_STEP
  while true do
    local _, newest = unpack(redis.call('ZREVRANGE', source.key, source.rank, source.rank, 'WITHSCORES'))
    local last = source.rank + step - 1
    local _, oldest = unpack(redis.call('ZREVRANGE', source.key, last, last, 'WITHSCORES'))
    local left = oldest and redis.call('ZCOUNT', source.key, oldest, newest) or 0
    for _, status in ipairs({'waiting', 'stuck', 'failed', 'cancelled'}) do
      left = left - (oldest and redis.call('ZCOUNT', index_of(P, status, source.name), oldest, newest) or 0)
    end
    if oldest and left == 0 then
      source.rank, step = redis.call('ZCOUNT', source.key, oldest, '+inf'), 2 * step
    elseif step == FIRST_STEP then
      return
    else
      step = FIRST_STEP
    end
  end
end

-- read_rows: read some rows of an index, newest first. Returns how many there were.
local function read_rows(source, count)
  if not source.rank then
    local from = before_id == '' and before or '(' .. before
    source.rank = start < math.huge and redis.call('ZCOUNT', source.key, from, '+inf') or 0
  end
  if source.completed then pass_over(source) end
  local page = redis.call('ZREVRANGE', source.key, source.rank, source.rank + count - 1, 'WITHSCORES')
  source.rank = source.rank + count
  local ids, is_ended, has_failed, was_cancelled = {}, {}, {}, {}
  for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
  if source.completed and #ids > 0 then
    is_ended = redis.call('ZMSCORE', index_of(P, 'ended', source.name), unpack(ids))
    has_failed = redis.call('ZMSCORE', index_of(P, 'failed', source.name), unpack(ids))
    was_cancelled = redis.call('ZMSCORE', index_of(P, 'cancelled', source.name), unpack(ids))
  end
  for i, id in ipairs(ids) do
    local is_listed = not source.completed or (is_ended[i] and not has_failed[i] and not was_cancelled[i])
    add(source, is_listed, id, tonumber(page[i * 2]))
  end
  return #ids
end

-- read_entries: read some entries of a queue, newest first. Returns how many there were. Those up to the last one that
-- was delivered are running.
local function read_entries(source, count)
  if not source.till then
    local ms, number = string.format('%.0f', math.floor(start / 1000)), start % 1000
    source.till = start == math.huge and '+' or before_id == '' and '(' .. ms .. '-' .. number
      or number == LAST_NUMBER and ms or ms .. '-' .. number
    source.from = '-'
    if not (wanted.queued and wanted.running) then
      local delivered = last_delivered(source.key)
      local ms_delivered, number_delivered = string.match(delivered, '^(%d+)-(%d+)$')
      if wanted.queued then
        source.from = '(' .. delivered
      elseif start > ms_delivered * 1000 + math.min(number_delivered, LAST_NUMBER) then
        source.till = delivered
      end
    end
  end
  local page = redis.call('XREVRANGE', source.key, source.till, source.from, 'COUNT', count)
  for _, one in ipairs(page) do
    local entry, flat = unpack(one)
    local fields = {}
    for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
    local ms, number = string.match(entry, '^(%d+)-(%d+)$')
    local is_listed = only == '' and (not roots or roots[fields.workflow]) or only == fields.workflow
    add(source, is_listed and fields.id, fields.id or '', ms * 1000 + math.min(number, LAST_NUMBER), entry)
    source.till = '(' .. entry
  end
  return #page
end

-- read: read some of a source's rows, beyond those of the time at which the page begins that are on an earlier one; its
-- `last` row is nil at its end.
local function read(source, count)
  count = math.min(count, MOST_READ)
  while true do
    local rows = source.read(source, count)
    budget = budget - rows
    if rows < count then
      source.last = nil
      return
    end
    if is_before(place, source.last) then return end
  end
end

for i = first_name, first_queue - 1 do
  if wanted.completed then -- the index of all executions has the others as well
    local completed = statuses == '1'
    sources[#sources + 1] = {key = index_of(P, 'all', ARGV[i]), name = ARGV[i], completed = completed, read = read_rows}
  else
    for status in pairs(stored) do
      if status ~= 'queued' or wanted.queued then -- a running one has an entry
        sources[#sources + 1] = {key = index_of(P, status, ARGV[i]), read = read_rows}
      end
    end
  end
end
if stored.queued and not wanted.completed then
  for i = first_queue, #ARGV do
    sources[#sources + 1] = {key = P .. 'queue:' .. ARGV[i], read = read_entries}
  end
end

local count, behind, page_ends = math.min(limit, math.ceil(2 * limit / math.max(1, #sources))), sources, nil
while #behind > 0 do
  for _, source in ipairs(behind) do read(source, count) end
  table.sort(found, is_before)
  page_ends, behind, count = found[limit], {}, 2 * count
  -- a source that has been read down to its last row only, and not beyond the page, may have more for it
  for _, source in ipairs(sources) do
    local more = source.last and (not page_ends or is_before(source.last, page_ends))
    if more and budget > 0 then behind[#behind + 1] = source end
  end
end
for _, source in ipairs(sources) do -- of one that has more, nothing is known beyond its last row
  if source.last and (not page_ends or is_before(source.last, page_ends)) then page_ends = source.last end
end

local result = {}
for i = 1, math.min(limit, #found) do
  local row = found[i]
  if page_ends and is_before(page_ends, row) then break end
  local workflow, status, created, started, finished, entry, reason, version = unpack(redis.call('HMGET',
    P .. 'exec:' .. row.id, 'workflow', 'status', 'created', 'started', 'finished', 'entry', 'stuck', 'version'))
  local is_its_own = only == '' and (not roots or roots[workflow]) or only == workflow
  local is_wanted = stored[status] and (not row.entry or row.entry == entry)
  if status == 'stuck' and not all_stuck then is_wanted = wanted[is_paused(reason) and 'paused' or 'stuck'] end
  if is_wanted and is_its_own and has_root(P, row.id, workflow, roots) then
    local starts = status == 'queued' and not entry and redis.call('ZSCORE', P .. 'timers', 'p' .. row.id)
    result[#result + 1] = {row.id, workflow, status, created, started, finished, starts, version,
      string.format('%.0f', row.at)}
  end
end
if not page_ends then return {'', '', result} end
return {string.format('%.0f', page_ends.at), page_ends.id, result}
