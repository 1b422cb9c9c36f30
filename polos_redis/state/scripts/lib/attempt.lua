-- #include record
-- superseded: is a step's record (without its time) no news, because its attempt or a later one is journaled?
-- A duplicate that was delayed on the wire must not undo what the same activation has journaled since.
local function superseded(old, record)
  if not old then return false end
  local is, new = read_record(old), cmsgpack.unpack(record .. '\0')
  if (is[4] or 0) >= new[4] then return true end
  return new[3] ~= 'abandoned' and (is[3] == 'ok' or is[3] == 'failed' or is[3] == 'abandoned')
end
