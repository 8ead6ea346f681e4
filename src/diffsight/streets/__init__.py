"""A procedural street world: six cameras and a LiDAR on a vehicle, with exact maps around it."""
