#!lua flags=allow-oom
-- spawn: begin some children of a step, a bounded number at a time; a child that exists is left as it is, one that
-- failed before its parent was retried runs again. Idempotent.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 'open' when they are waited for, else 'started'
--       7 children of the step  8 index of the first of these  9 retention in ms  10 the race it decides, or ''
--       11 the races it takes part in, as for join  12 number of the following events' arguments, then those, then for each child: id, workflow, input (codec),
--       options (msgpack map)
-- Returns {changes, record}; -1 or -2 as write does.
-- #include fence
-- #include creation
-- #include rerun
local P, id, key, total, first = KEYS[1], ARGV[1], ARGV[5], tonumber(ARGV[7]), tonumber(ARGV[8])
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key, 'relations')
if n < 0 then return n end
claim(P, id, ARGV[3], e, now)
local journal, root = P .. 'journal:' .. id, string.match(id, '^[^.]*')
local last = 12 + tonumber(ARGV[12])
local record = old and cmsgpack.unpack(old)
if record and (record[2] ~= 'child' or record[7] > first or record[7] == total) then return {n, old} end
if last > 12 then redis.call('XADD', P .. 'topic:' .. root, '*', unpack(ARGV, 13, last)) end
if not record then
  local status = ARGV[6]
  if not join(P, id, ARGV[11], now) then status = 'closed' end
  record = {1, 'child', status, now, total, total, 0, 0, ARGV[10]}
  if status == 'open' then note_wait(P, id, key) end
  local relations = read_relations(e[5])
  if not relations.kids then
    relations.kids = true
    write_relations(P, id, relations)
  end
end
if record[STATUS] ~= 'closed' then
  for i = last + 1, #ARGV, 4 do
    local child = ARGV[i]
    local held = redis.call('HGET', journal, result_field(child))
    if held then -- one that came since this step began has been counted
      if read_record(held)[4] ~= record[OPENED] then record[6] = record[6] - 1 end
    else
      local is = redis.call('HGET', P .. 'exec:' .. child, 'status')
      if is == 'completed' then
        if record[STATUS] == 'open' then
          local output = redis.call('HGET', P .. 'exec:' .. child, 'output')
          redis.call('HSET', journal, result_field(child), cmsgpack.pack({'completed', output, key, record[OPENED]}))
        end
        record[6] = record[6] - 1
      else
        redis.call('SADD', P .. 'children:' .. id, child)
        if is == 'failed' or is == 'cancelled' then
          rerun(P, child, redis.call('HMGET', P .. 'exec:' .. child, unpack(ENDING_FIELDS)), 0)
        elseif not is then
          create(P, child, ARGV[i + 1], ARGV[i + 2], ARGV[9], now_us + (i - last - 1) / 4, cmsgpack.unpack(ARGV[i + 3]))
        end
      end
    end
  end
end
record[7] = first + (#ARGV - last) / 4
local packed
if record[STATUS] == 'open' and record[6] == 0 then
  packed = resolve(P, id, key, record, 'done', now)
else
  packed = rewrite(P, id, key, record)
end
return {tonumber(redis.call('HGET', journal, '')), packed}
