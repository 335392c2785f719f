# Approves the steps of rollouts of the service `shop`; changes no policy.

key_prefix "grayctl/" {
  policy = "read"
}

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key "grayctl/approvals/shop" {
  policy = "write"
}

# an approval is an act; mind the slash at the end
key_prefix "grayctl/audit/shop/" {
  policy = "write"
}
