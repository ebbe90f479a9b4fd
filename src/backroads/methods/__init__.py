"""Ways to assign credit: each is one scalar and one backward pass, in one file."""
