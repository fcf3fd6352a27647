"""Docker as an instance has it: its command line, its containers, the engines that run them."""
