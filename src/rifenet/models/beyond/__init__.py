"""What is not in the paper: the evidence head, the network with it, views of the supports."""
