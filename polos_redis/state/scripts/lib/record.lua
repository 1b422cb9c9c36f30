-- read_record: a journal record, empty when it is damaged: one that nobody can read must not stop the others.
local function read_record(packed)
  local whole, record = pcall(cmsgpack.unpack, packed)
  return whole and type(record) == 'table' and record or {}
end
