#!lua flags=allow-oom
-- choose: journal the winner of a race, unless a wait that was decided has won it before; the other waits are closed.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key of the race  6 the branch that came first
--       7.. what has been begun in the branches: step key, branch, ...
-- Returns {changes, record}; -1 or -2 as write does.
-- #include fence
-- #include clock
-- #include resolve
local P, id, key = KEYS[1], ARGV[1], ARGV[5]
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key)
if n < 0 then return n end
claim(P, id, ARGV[3], e, now)
local record = old and cmsgpack.unpack(old) or {1, 'race', 'open', now, '', 0, {}}
if record[2] ~= 'race' then return {n, old} end
local news = record[STATUS] == 'open'
if news then
  record[STATUS], record[5], record[6] = 'won', ARGV[6], now
elseif record[5] ~= ARGV[6] then
  return {n, old}
end
local members, known = record[7], {}
for i = 1, #members, 2 do known[members[i]] = true end
for i = 7, #ARGV, 2 do
  if not known[ARGV[i]] then
    members[#members + 1] = ARGV[i]
    members[#members + 1] = ARGV[i + 1]
    news = true
  end
end
if not news then return {n, old} end
for i = 1, #members, 2 do
  if members[i + 1] ~= ARGV[6] then close(P, id, members[i], now, 'abandoned') end
end
local packed = rewrite(P, id, key, record)
return {tonumber(redis.call('HGET', P .. 'journal:' .. id, '')), packed}
