"""What connects instances with the outside: external addresses, behind the firewall's rules."""
