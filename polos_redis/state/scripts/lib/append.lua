-- append: add a pair to a flat list: a field and its value, an event's type and data, a step key and its branch.
local function append(list, one, other)
  local length = #list
  list[length + 1], list[length + 2] = one, other
end
