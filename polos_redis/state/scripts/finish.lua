#!lua flags=allow-oom
-- finish: an activation ends its execution as completed or failed, and acknowledges its entry.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 'completed' or 'failed'  6 output (codec) or error
--       7 data of the finish event  8 further fields of the execution (msgpack list), or ''
--       9.. events that come before it
-- Returns 0; -1 or -2 as write does.
-- #include fence
-- #include ending
local P, id, known = KEYS[1], ARGV[1], tonumber(ARGV[4])
local n, _, e = fence(P, id, ARGV[2], ARGV[3], known, '', unpack(ENDING_FIELDS, 5))
if n < 0 then return n end
local field = ARGV[5] == 'completed' and 'output' or 'error'
local fields = ARGV[8] ~= '' and cmsgpack.unpack(ARGV[8]) or {}
if not e[4] then
  fields[#fields + 1] = 'started'
  fields[#fields + 1] = now
end
ending(P, id, e, ARGV[5], field, ARGV[6], ARGV[7], {unpack(ARGV, 9)}, fields, n)
return 0
