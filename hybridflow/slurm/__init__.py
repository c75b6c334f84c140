"""Slurm: jobs and their states, the plugin that grants slots, and a local cluster to try it on."""
