"""The nginx beside us: generations on disk, the process, the staged check, the proof, activation and recovery."""
