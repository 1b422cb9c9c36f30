#!lua flags=allow-oom
-- place: an execution of another partition asks for a place in a lane, or gives its place up.
-- KEYS  1 the prefix of the lane's home partition
-- ARGV  1 lane  2 limit  3 execution  4 its version  5 '1' to ask, '0' to give up
-- Returns 1 when it holds a place now, else 0.
-- #include lane
local P, lane, limit, id, version = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
if ARGV[5] == '1' then return take_place(P, lane, limit, id, version) and 1 or 0 end
free_place(P, lane, limit, id, version)
return 0
