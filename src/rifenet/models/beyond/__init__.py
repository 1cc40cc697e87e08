"""Parts beyond the paper: the evidence head, the network that has it, and views of the supports."""
