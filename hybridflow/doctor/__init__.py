"""What is wrong with a site, a job or an environment, and what to do about it."""
