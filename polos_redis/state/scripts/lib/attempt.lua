-- #include record
-- superseded: whether a step's record, which comes without its time, is stale: its attempt or a later one is in the
-- journal already. A duplicate delayed on the wire must not undo what the same activation has journaled since.
local function superseded(old, untimed)
  if not old then return false end
  local is, new = read_record(old), cmsgpack.unpack(untimed .. '\0') -- msgpack's 0 in place of the time
  if (is[ATTEMPT] or 0) >= new[ATTEMPT] then return true end
  local status = is[STATUS]
  return new[STATUS] ~= 'abandoned' and (status == 'ok' or status == 'failed' or status == 'abandoned')
end
