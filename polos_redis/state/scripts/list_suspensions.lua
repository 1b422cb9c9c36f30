#!lua flags=no-writes
-- list_suspensions: a page of open suspensions, oldest first. It ends early after many rows of other workflows, or when
-- the records are large.
-- KEYS  1 the partition's prefix
-- ARGV  1 opened after (us, exclusive) or '-inf'  2 limit  3 workflow, or '' for all  4 how many rows to look at
--       5 how many bytes of records to return, beyond the first one  6 the only workflows of roots, as for
--       list_executions, or ''
-- Returns {where the next page begins (us), '' after the last one, a list of {execution id, step key, workflow, opened
-- us, record, 1 when its code, as it is now, has not reached it else 0}}.
-- #include index
-- #include roots
local P, after, limit, only, most_rows, most_bytes, roots = KEYS[1], unpack(ARGV)
limit, most_rows, most_bytes = tonumber(limit), tonumber(most_rows), tonumber(most_bytes)
roots = read_roots(roots)
local function is_among(packed, key)
  for _, one in ipairs(packed and cmsgpack.unpack(packed) or {}) do if one == key then return true end end
end

-- count_live: how many executions have not ended, in the indexes of a name.
local function count_live(name)
  return redis.call('ZCARD', index_of(P, 'all', name)) - redis.call('ZCARD', index_of(P, 'ended', name))
end

-- an open suspension belongs to an execution that is live
if only ~= '' and count_live(only) <= 0 and count_live('') <= 0 then return {'', {}} end
if after ~= '-inf' then after = '(' .. after end
local count = (only ~= '' or roots) and most_rows or math.min(limit, most_rows)
local page = redis.call('ZRANGEBYSCORE', P .. 'suspensions', after, '+inf', 'WITHSCORES', 'LIMIT', 0, count)
local result, bytes = {}, 0
for i = 1, #page, 2 do
  local id, key = string.match(page[i], '^(%S+) (.*)$')
  local workflow, unreached = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'workflow', 'unreached_waits'))
  local opened = string.format('%.0f', page[i + 1])
  if (only == '' or only == workflow) and has_root(P, id, workflow, roots) then
    local record = redis.call('HGET', P .. 'journal:' .. id, key)
    result[#result + 1] = {id, key, workflow, opened, record, is_among(unreached, key) and 1 or 0}
    bytes = bytes + #(record or '')
  end
  local at_end = i == #page - 1
  if (at_end and #page == 2 * count) or (not at_end and (#result == limit or bytes > most_bytes)) then
    return {opened, result}
  end
end
return {'', result}
