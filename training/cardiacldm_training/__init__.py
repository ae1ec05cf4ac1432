"""Training of CardiacLDM: virtual cohort, training loop, evaluation and the command line."""
