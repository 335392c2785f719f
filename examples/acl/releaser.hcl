# Applies, rolls out, rolls back and deletes the releases of the service `shop`; approves nothing.

key_prefix "grayctl/" {
  policy = "read"
}

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

# the policy, and the live record that belongs to it
key "grayctl/releases/shop" {
  policy = "write"
}

key "grayctl/staged/shop" {
  policy = "write"
}

key "grayctl/live/shop" {
  policy = "write"
}

key "grayctl/rollouts/shop" {
  policy = "write"
}

key "grayctl/drains/shop" {
  policy = "write"
}

# every change writes both of these, in the same transaction; mind the slash at the end
key_prefix "grayctl/history/shop/" {
  policy = "write"
}

key_prefix "grayctl/audit/shop/" {
  policy = "write"
}
