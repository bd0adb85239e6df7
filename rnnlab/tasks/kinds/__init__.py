"""What tasks are made with: sequences of known answers, examples whose answers are texts."""
