"""What load balancing is made of: speeds, loads, moves and hedges, and the simple strategies to compare with. Pure."""
