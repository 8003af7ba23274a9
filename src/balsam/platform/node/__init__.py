"""What a node has - cores, memory, GPUs - and which nodes an allocation holds."""
