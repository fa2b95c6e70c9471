"""Side by side with peers: ratios in one run, interleaved, medians. Never a timed test."""
