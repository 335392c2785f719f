# The daemon on the node `edge-1`. It changes no policy and approves nothing.

key_prefix "grayctl/" {
  policy = "read"
}

service_prefix "" {
  policy = "read"
}

# Consul shows instances only with their nodes; also for the checks of nodes
node_prefix "" {
  policy = "read"
}

# its own report to the fleet and its own statistics, under the `node` of the settings
key "grayctl/nodes/edge-1" {
  policy = "write"
}

key_prefix "grayctl/windows/edge-1/" {
  policy = "write"
}

# which a session holds; this is the Consul node of the agent it asks
session "edge-1" {
  policy = "write"
}

# for `grayctl check` alone: the agent's connection limit
agent "edge-1" {
  policy = "read"
}

# any node may lead: the leader writes what is in force after a policy was edited by hand, and moves rollouts
key "grayctl/leader" {
  policy = "write"
}

key_prefix "grayctl/live/" {
  policy = "write"
}

key_prefix "grayctl/rollouts/" {
  policy = "write"
}

key_prefix "grayctl/history/" {
  policy = "write"
}

key_prefix "grayctl/audit/" {
  policy = "write"
}
