#!lua flags=no-writes
-- read_journal: a page of an execution's journal, in no order. A page ends early when the records are large; a record
-- may come twice if the journal changes meanwhile.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 cursor, '0' for the first page  3 how many records to return, about  4 how many bytes of them, beyond
--       the last few
-- Returns {the next cursor, '0' after the last page, flat list of fields and values}.
-- #include append
local P, id, cursor, most, most_bytes = KEYS[1], unpack(ARGV)
local SOME <const> = 10
most, most_bytes = tonumber(most), tonumber(most_bytes)
local found, bytes, more = {}, 0, true
while more do
  local next_cursor, page = unpack(redis.call('HSCAN', P .. 'journal:' .. id, cursor, 'COUNT', SOME))
  cursor = next_cursor
  for i = 1, #page, 2 do
    local field, record = page[i], page[i + 1]
    append(found, field, record)
    bytes = bytes + #record
  end
  more = cursor ~= '0' and #found < 2 * most and bytes <= most_bytes
end
return {cursor, found}
