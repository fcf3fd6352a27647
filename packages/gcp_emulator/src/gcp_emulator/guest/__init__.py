"""What an instance is inside: a VM that boots, with SSH, cloud-init, systemd and a shell."""
