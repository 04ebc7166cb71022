"""The job of bench/usecases/peers_job on other systems, as their users write it, in an environment of their own."""
