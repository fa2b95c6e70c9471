"""What a served model remembers, on this machine's disk. `attention_cache`: keys and values of text read before."""
