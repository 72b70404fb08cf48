"""Speed relative to the limits of the machine; both sides interleaved, so that a busy machine slows them alike."""
