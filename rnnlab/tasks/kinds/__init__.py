"""What tasks are made with: sequences of known answers, examples with answers."""
