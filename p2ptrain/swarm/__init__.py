"""Who is in the swarm: signed records and the view that heartbeats keep true. Over the ports only."""
