# Reads everything that grayctl keeps, and writes nothing.

key_prefix "grayctl/" {
  policy = "read"
}

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}
