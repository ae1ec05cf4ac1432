"""How true generated pairs are: each figure beside what held-out references reach among themselves."""
