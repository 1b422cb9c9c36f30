-- superseded: is a step's record (without its time) no news, because its attempt or a later one is journaled?
-- A duplicate that was delayed on the wire must not undo what the same activation has journaled since.
local function superseded(old, record)
  if not old then return false end
  local is = read_record(old)
  return is[3] == 'ok' or is[3] == 'failed' or (is[4] or 0) >= cmsgpack.unpack(record .. '\0')[4]
end
