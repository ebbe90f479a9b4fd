"""What stands beside the library proper: theory of the primitives, estimates of W by spikes, learners of streams,
layers that organise themselves."""
