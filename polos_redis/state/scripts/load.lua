#!lua flags=allow-oom
-- load: an activation begins on an execution that has a journal (or may have one): it becomes the owner and
-- is given what is known.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner
-- Returns nil when the entry is not the live one or another activation owns the execution, else
-- {input, started in ms or nil, losses or nil, about or nil, the journal as a flat list of field and record}.
-- #include fence
-- #include clock
local P, id = KEYS[1], ARGV[1]
local n, _, e = fence(P, id, ARGV[2], ARGV[3], 0, '')
if n < 0 then return false end
claim(P, id, ARGV[3], {e[1], e[2], e[3], true}, now)
local f = redis.call('HMGET', P .. 'exec:' .. id, 'input', 'started', 'attempts', 'origin')
return {f[1], f[2], f[3], f[4], redis.call('HGETALL', P .. 'journal:' .. id)}
