"""What gain costs: runs along their ways, the least cost of a gain, and methods compared at an equal gain."""
