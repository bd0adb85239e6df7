"""Many runs: members, one program, processes, SLURM, and the report."""
