#!lua flags=allow-oom
-- choose_winner: journal the winner of a race, unless a wait that was decided has won it before, and close the other
-- waits.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key of the race  6 the branch that came first
--       7 the races around this one, as for join  8.. what was started in the branches: step key, branch, ...
-- Returns {changes, record}; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include resolve
local P, id, entry, owner, known, key, branch, races = KEYS[1], unpack(ARGV, 1, 7)
local STARTED <const> = 8
local count, old, is = fence(P, id, entry, owner, known, key)
if count < 0 then return count end
claim(P, id, owner, is, now)
local race = old and cmsgpack.unpack(old) or {1, 'race', 'open', now, '', 0, {}} -- as in join
if race[KIND] ~= 'race' then return {count, old} end
local news = race[STATUS] == 'open'
if news then
  race[STATUS], race[RACE_WINNER], race[RACE_DECIDED] = 'won', branch, now
elseif race[RACE_WINNER] ~= branch then
  return {count, old}
end
local members = race[RACE_MEMBERS]
if not add_members(members, ARGV, STARTED) and not news then return {count, old} end
join(P, id, races)
for i = 1, #members, 2 do
  if members[i + 1] ~= branch then close(P, id, members[i], 'abandoned') end
end
local packed = rewrite(P, id, key, race)
return {changes(P, id), packed}
