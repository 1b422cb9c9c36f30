#!lua flags=allow-oom
-- give_up: close waits that the workflow's code has given up, before it does anything else. One that has been answered
-- is marked: the code need not reach it when it is replayed.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5.. step keys
-- Returns the journal's count of changes; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include resolve
local P, id, entry, owner, known = KEYS[1], unpack(ARGV, 1, 4)
local STEP_KEYS <const> = 5
local count, _, is = fence(P, id, entry, owner, known, '')
if count < 0 then return count end
claim(P, id, owner, is, now)
for i = STEP_KEYS, #ARGV do give_up(P, id, ARGV[i]) end
return changes(P, id)
