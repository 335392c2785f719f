"""What the tests share: free ports, child processes, a real Consul, a real nginx."""
