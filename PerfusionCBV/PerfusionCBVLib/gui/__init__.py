"""What the library needs to live in Slicer: nodes in, nodes out. Besides `web`, nothing else imports slicer."""
